"""The node `notify/webhook`: sends a message to Slack, Teams, Discord, or any other service that accepts JSON."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import httpx

from waterflow_agent.nodes import http, schema, webhook_formats
from waterflow_agent.nodes.node import Context, Node, NodeFailure
from waterflow_agent.nodes.parameter_values import duration_s


class WebhookNode(Node[schema.NotifyWebhook]):
    """Sends one request; a retry can help if the server is unreachable or busy."""

    parameters = schema.NotifyWebhook

    async def run(self, context: Context, parameters: schema.NotifyWebhook) -> dict[str, Any]:
        """See the base class."""
        content = json.dumps(self._body(parameters), ensure_ascii=False).encode()
        headers = {"content-type": "application/json"}
        if parameters.secret is not None:
            digest = hmac.new(parameters.secret.encode(), content, hashlib.sha256).hexdigest()
            headers["x-hub-signature-256"] = f"sha256={digest}"
        # The URL of a webhook is a secret, so messages do not contain it.
        try:
            async with http.client(verify=True, timeout_s=duration_s(parameters.timeout, "timeout")) as sender:
                response = await sender.post(parameters.url, content=content, headers=headers)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise NodeFailure("invalid url") from error
        except httpx.HTTPError as error:
            raise NodeFailure(
                f"cannot reach the webhook: {type(error).__name__}", may_retry=http.may_retry(error)
            ) from error
        outputs = {"status": response.status_code}
        if not response.is_success:
            may_retry = response.status_code in (408, 429) or response.status_code >= 500
            raise NodeFailure(
                f"the webhook returned status {response.status_code}", may_retry=may_retry, outputs=outputs
            )
        context.log(f"sent {len(content)} bytes: status {response.status_code}")
        return outputs

    def _body(self, parameters: schema.NotifyWebhook) -> Any:
        if parameters.json is not None:
            if parameters.message:
                raise NodeFailure("message and json are mutually exclusive")
            return parameters.json
        if not parameters.message:
            raise NodeFailure("message or json is required")
        return webhook_formats.body_of(parameters.template, parameters.message)
