"""Cron expressions: the instants at which they are due in a time zone.

Rules of this file: five fields (minute, hour, day of month, month, day of week), or a word such as `@daily`. A local
time becomes an instant by these rules, which are those of Debian's cron:

- An expression for fixed times (neither its minute nor its hour begins with `*`) runs once for each time that it names.
  A time that a clock change skips runs once, right after the gap; several times in one gap run once together. A time that
  occurs twice runs at its first occurrence.
- An expression for an interval (minute or hour begins with `*`, as in `*/30 * * * *`) runs at each actual occurrence: not in
  a gap, and twice if a time occurs twice.

Theory: which local times match depends on the calendar alone, and `cronsim` computes them. It is used without a zone, because
its own rules for zones lose or repeat times where the clocks change by half an hour or at midnight. Local times are converted
to instants here. Where the offset from UTC does not change nearby, a local time is one instant and both have the same order.
Elsewhere a local time may be zero, one or two instants, so the instants near a change are collected and sorted before any of
them is returned. No zone changes twice within two days.

Known impurity: the tables of zones are read from files, of the system or of `tzdata`, once per zone and process.
Instants are milliseconds since 1970 in UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from waterflowd.model.wording import did_you_mean

#: Longer than any readable expression.
EXPRESSION_LENGTH_MAX = 200
#: Words for common expressions.
WORDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
#: The names of the fields, and their values.
_FIELDS = (
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    ("day of the month", "1 to 31, or L for the last one"),
    ("month", "1 to 12, or JAN to DEC"),
    ("day of the week", "0 to 7 (both are Sunday), or SUN to SAT"),
)
#: No zone has ever changed its offset by more than a day.
_CHANGE_MAX = timedelta(days=1)
#: An arbitrary day from which to check that an expression has instants at all; leap days follow soon after it.
_PROBE = datetime(2000, 1, 1)
_EPOCH = datetime(1970, 1, 1)
#: The calendar of `datetime` ends in 9999; zones need a few days around each time.
_AT_MAX = 253_370_764_800_000
_ZONE = re.compile(r"[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+)*")
#: Names among the system's zones that differ between machines, or count leap seconds.
_NO_ZONES = re.compile(r"(?:posix|right)/.*|localtime|posixrules|Factory")


class CronError(ValueError):
    """An invalid expression or time zone; the text is a message for its author."""


def check(expression: str) -> str:
    """The expression with single spaces, and with words replaced by fields; raises `CronError`."""
    written = expression.strip()
    if len(written) > EXPRESSION_LENGTH_MAX:
        raise CronError(f"the cron expression has {len(written):,} characters; the limit is {EXPRESSION_LENGTH_MAX}")
    if written.startswith("@"):
        return _written_out(written.lower())
    fields = written.split()
    if len(fields) != len(_FIELDS):
        count = f"{len(fields)} field" + ("" if len(fields) == 1 else "s")
        named = ", ".join(name for name, _ in _FIELDS)
        raise CronError(f'a cron expression has five fields ({named}); "{written}" has {count}')
    for number, field in enumerate(fields):
        _check_field(number, field)
    _check_ever(" ".join(fields))
    return " ".join(fields)


def zone_of(name: str) -> ZoneInfo:
    """The zone with an IANA name such as `Europe/Berlin`; raises `CronError`, with a suggestion."""
    if _ZONE.fullmatch(name) and not _NO_ZONES.fullmatch(name):
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            # A folder of zones such as `Europe` raises OSError or ValueError, depending on the version of Python.
            pass
    raise CronError(f'unknown time zone "{name[:60]}"; {_zone_hint(name)}')


def next_instants(expression: str, zone: str, after: int) -> Iterator[int]:
    """The instants after `after`, ascending, until the calendar ends. Raises `CronError` at once."""
    fields, where = check(expression), zone_of(zone)
    return _instants(fields, where, min(max(after, 0), _AT_MAX))


def upcoming(expression: str, zone: str, after: int, count: int) -> list[int]:
    """The next `count` instants."""
    return list(islice(next_instants(expression, zone, after), count))


def newest_instants(expression: str, zone: str, after: int, until: int, limit: int) -> tuple[list[int], bool]:
    """The newest `limit` instants after `after` and up to `until`, ascending, and whether there are more of them.

    The cost is bounded, however long the interval is.
    """
    for days in (1 / 24, 1, 32, 366, 1_500, 20_000):
        start = max(after, until - int(days * 86_400_000))
        found: list[int] = []
        for instant in next_instants(expression, zone, start):
            if instant > until:
                break
            found.append(instant)
        if len(found) > limit or start == after:
            break
    return found[-limit:], len(found) > limit


def _written_out(word: str) -> str:
    if word in WORDS:
        return WORDS[word]
    if word == "@reboot":
        raise CronError("@reboot is not supported: a workflow cannot start when the daemon starts")
    if word.startswith("@every"):
        raise CronError("@every is not a cron expression: write */5 * * * * for every five minutes")
    raise CronError(f'unknown word "{word}"; {did_you_mean(word, WORDS) or "known words: " + ", ".join(WORDS)}')


def _check_field(number: int, field: str) -> None:
    name, takes = _FIELDS[number]
    probe = ["*"] * len(_FIELDS)
    probe[number] = field
    # A day that does not occur in the probe is checked below, with the whole expression.
    try:
        CronSim(" ".join(probe), _PROBE)
    except CronSimError:
        text = f'field {number + 1} of the cron expression ({name}) cannot be "{field}"'
        raise CronError(f"{text}; expected {takes}, with * , - and /") from None


def _check_ever(fields: str) -> None:
    try:
        next(CronSim(fields, _PROBE))
    except (CronSimError, StopIteration):
        raise CronError(f'"{fields}" never matches: the calendar has no such day') from None


def _zone_hint(name: str) -> str:
    folded = name.casefold().replace(" ", "_")
    known = _zone_names()
    same = [zone for zone in known if folded in (zone.casefold(), zone.casefold().rpartition("/")[2])]
    if same:
        return f'did you mean "{same[0]}"?'
    return did_you_mean(name, known) or "use a name such as Europe/Berlin, or UTC"


@lru_cache(maxsize=1)
def _zone_names() -> tuple[str, ...]:
    # Those with a continent first: `Berlin` is a better suggestion for one of them than for an old alias.
    names = (name for name in available_timezones() if not _NO_ZONES.fullmatch(name))
    return tuple(sorted(names, key=lambda name: ("/" not in name, name.startswith("Etc/"), name)))


def _instants(fields: str, zone: ZoneInfo, after: int) -> Iterator[int]:
    minute, hour = fields.split()[:2]
    is_interval = minute.startswith("*") or hour.startswith("*")
    start = (_EPOCH + timedelta(milliseconds=after)).replace(tzinfo=UTC).astimezone(zone).replace(tzinfo=None)
    if not _is_steady(start, zone):
        start -= _margin(start, zone)
    last = after
    pending: list[int] = []
    for local in _matching(fields, start):
        if not _is_steady(local, zone):
            pending += _occurrences(local, zone, is_interval)
            continue
        for instant in (*sorted(pending), _millis(local - _offset(local, zone))):
            # Several times in one gap are the same instant, which may have been returned already.
            if instant > last:
                last = instant
                yield instant
        pending.clear()
    yield from (instant for instant in sorted(set(pending)) if instant > last)


def _matching(fields: str, start: datetime) -> Iterator[datetime]:
    """Matching local times after `start`, until the calendar ends."""
    times = CronSim(fields, start)
    while True:
        try:
            local = next(times)
        except (StopIteration, OverflowError, ValueError):
            return
        if local.year > 9_990:
            return
        yield local


def _is_steady(local: datetime, zone: ZoneInfo) -> bool:
    """Whether the offset is the same around a local time, so that it is one instant, and comes after all earlier ones."""
    margin = _margin(local, zone)
    return not margin or len({_offset(time, zone) for time in (local - margin, local, local + margin)}) == 1


def _margin(local: datetime, zone: ZoneInfo) -> timedelta:
    """The distance at which a change of the offset affects a local time: twice the change of the offset in these days."""
    return 2 * abs(_offset(local + _CHANGE_MAX, zone) - _offset(local - _CHANGE_MAX, zone))


def _offset(local: datetime, zone: ZoneInfo, fold: int = 0) -> timedelta:
    return local.replace(tzinfo=zone, fold=fold).utcoffset() or timedelta()


def _occurrences(local: datetime, zone: ZoneInfo, is_interval: bool) -> list[int]:
    """The instants of a local time near a change of the offset."""
    first, second = _offset(local, zone), _offset(local, zone, fold=1)
    if first < second:
        # In a gap: before it the first offset applies, after it the second.
        return [] if is_interval else [_end_of_gap(local, zone, first, second)]
    instants = [_millis(local - first)]
    if first > second and is_interval:
        instants.append(_millis(local - second))
    return instants


def _end_of_gap(local: datetime, zone: ZoneInfo, before: timedelta, after: timedelta) -> int:
    """The instant at which the offset changes, to the second."""
    low, high = local - after, local - before
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=int((high - low).total_seconds()) // 2)
        is_before = middle.replace(tzinfo=UTC).astimezone(zone).utcoffset() == before
        low, high = (middle, high) if is_before else (low, middle)
    return _millis(high)


def _millis(utc: datetime) -> int:
    return (utc - _EPOCH) // timedelta(milliseconds=1)
