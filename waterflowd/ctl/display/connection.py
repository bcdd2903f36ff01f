"""What live screens say about their connection to the daemon."""

from __future__ import annotations

from waterflowd.ctl.display.terminal import clock_text, now_ms, style


class Connection:
    """Since when the daemon cannot be reached (ms, this machine's clock); None while it can. Any thread may write it."""

    def __init__(self) -> None:
        self.lost_at: int | None = None

    def lost(self, _reason: str = "") -> None:
        """Remember the moment of the first failure."""
        self.lost_at = self.lost_at or now_ms()

    def resumed(self) -> None:
        """The daemon answers again."""
        self.lost_at = None

    def now_ms(self) -> int:
        """The time up to which the screen is known to be right: durations do not advance beyond it."""
        return self.lost_at or now_ms()

    def line(self, comfort: str) -> str | None:
        """The line to show while the daemon cannot be reached, which ends with what the user may rely on."""
        if self.lost_at is None:
            return None
        return style(f"connection lost since {clock_text(self.lost_at)}, retrying; {comfort}", "yellow")
