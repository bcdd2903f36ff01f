"""The node `notify/webhook`: a message to whoever listens: Slack, Teams, Discord, or anything that takes JSON."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import httpx

from waterflow_agent.nodes import http, schema
from waterflow_agent.nodes.node import Context, Node, NodeFailure
from waterflow_agent.nodes.parameter_values import duration_s


class WebhookNode(Node[schema.NotifyWebhook]):
    """Posts once; a server that is away or busy may be tried again."""

    parameters = schema.NotifyWebhook

    async def run(self, context: Context, given: schema.NotifyWebhook) -> dict[str, Any]:
        """See the base class."""
        content = json.dumps(self._body(given), ensure_ascii=False).encode()
        headers = {"content-type": "application/json"}
        if given.secret is not None:
            digest = hmac.new(given.secret.encode(), content, hashlib.sha256).hexdigest()
            headers["x-hub-signature-256"] = f"sha256={digest}"
        # The address of such a hook is a secret by itself, so no message shows it.
        try:
            async with http.client(verify=True, timeout_s=duration_s(given.timeout, "timeout")) as sender:
                response = await sender.post(given.url, content=content, headers=headers)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise NodeFailure("url is no address") from error
        except httpx.HTTPError as error:
            raise NodeFailure(
                f"the hook cannot be reached: {type(error).__name__}", may_retry=http.may_pass(error)
            ) from error
        outputs = {"status": response.status_code}
        if not response.is_success:
            may_retry = response.status_code in (408, 429) or response.status_code >= 500
            raise NodeFailure(f"the hook answered {response.status_code}", may_retry=may_retry, outputs=outputs)
        context.log(f"sent, {len(content)} bytes: {response.status_code}")
        return outputs

    def _body(self, given: schema.NotifyWebhook) -> Any:
        if given.json is not None:
            if given.message:
                raise NodeFailure("message and json exclude each other")
            return given.json
        if not given.message:
            raise NodeFailure("message or json is needed")
        match given.template:
            case "slack":
                return {"text": given.message}
            case "discord":
                return {"content": given.message}
            case "teams":
                return {
                    "type": "message",
                    "attachments": [
                        {
                            "contentType": "application/vnd.microsoft.card.adaptive",
                            "content": {
                                "type": "AdaptiveCard",
                                "version": "1.4",
                                "body": [{"type": "TextBlock", "text": given.message, "wrap": True}],
                            },
                        }
                    ],
                }
        return {"message": given.message}
