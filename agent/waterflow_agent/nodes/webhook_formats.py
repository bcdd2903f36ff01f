"""The bodies that chat services expect of a webhook, for the node `notify/webhook` and for the daemon's notices."""

from __future__ import annotations

from typing import Any


def body_of(service: str | None, message: str) -> dict[str, Any]:
    """Return the body for a message in the format of a service; None, or an unknown one: `{"message": ...}`."""
    match service:
        case "slack" | "mattermost":
            return {"text": message}
        case "discord":
            return {"content": message}
        case "teams":
            return {
                "type": "message",
                "attachments": [
                    {
                        "contentType": "application/vnd.microsoft.card.adaptive",
                        "content": {
                            "type": "AdaptiveCard",
                            "version": "1.4",
                            "body": [{"type": "TextBlock", "text": message, "wrap": True}],
                        },
                    }
                ],
            }
    return {"message": message}
