"""Reads the content of an artifact from the bucket, at addresses that the daemon gives for many blocks at a time."""

from __future__ import annotations

import asyncio

from waterflow_agent.artifacts.channel import ArtifactChannel
from waterflow_agent.errors import Rejected
from waterflow_agent.nodes.artifacts.bucket import AddressExpired, BucketClient, Unreachable
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import ArtifactPart, ArtifactRow, BlockAddress

#: Addresses of one request: of 16 MiB, so that a slow line uses them before they expire.
_ADDRESSES = 64
_TRIES_MAX = 3


class BucketReader:
    """One artifact. For the loop's thread."""

    def __init__(self, channel: ArtifactChannel, bucket: BucketClient, row: ArtifactRow) -> None:
        self.channel = channel
        self._bucket = bucket
        self.row = row
        #: Of blocks that are read next.
        self._addresses: dict[int, BlockAddress] = {}
        self._asking = asyncio.Lock()
        #: Whether the daemon has given addresses, or would; it does not say so before it is asked.
        self._has_addresses = True

    async def read(self, index: int) -> bytes | None:
        """A block of the content, not verified; None if the daemon has to be asked for it. Raises as `BucketClient`."""
        for _ in range(_TRIES_MAX):
            found = await self._find(index)
            if not isinstance(found, BlockAddress):
                return found
            try:
                return await self._bucket.read(found)
            except Unreachable:
                return None
            except AddressExpired as error:
                refused = str(error)
        raise Rejected("WF764", f"{refused} for {_TRIES_MAX} addresses in turn; check the policy of the daemon's key")

    async def _find(self, index: int) -> BlockAddress | bytes | None:
        """The address of a block; its content, if the daemon has sent that; None to ask the daemon."""
        async with self._asking:
            if index not in self._addresses:
                if not (self._has_addresses and self._bucket.is_usable):
                    return None
                result = await self.channel.ask_any(self.request(ArtifactPart.CONTENT, index, _ADDRESSES))
                if not isinstance(result, messages.BlockAddresses):
                    self._has_addresses = False
                    return result.data if isinstance(result, messages.BlockRead) else None
                self._addresses |= dict(enumerate(result.blocks[:_ADDRESSES], index))
            return self._addresses.pop(index, None)

    def request(self, part: ArtifactPart, index: int, addresses: int = 0) -> messages.ReadBlock:
        """What asks the daemon for a block, or for so many addresses."""
        return messages.ReadBlock(self.row.name, self.row.digest, part, index, addresses)
