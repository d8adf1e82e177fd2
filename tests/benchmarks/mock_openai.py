"""An OpenAI server that answers at once, for proxies to stand in front of.

    python -m tests.benchmarks.mock_openai PORT

One process, raw protocol: it costs tens of microseconds a request, so the proxy is what is
measured. It answers every POST with the same chat completion, and everything else with 200 and
nothing.
"""

import asyncio
import json
import sys

_ANSWER = json.dumps(
    {
        "id": "chatcmpl-mock",
        "object": "chat.completion",
        "created": 1,
        "model": "echo",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Klk, busco una yipeta pa la familia"},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 7, "total_tokens": 14},
    }
).encode()
_END_OF_HEAD = b"\r\n\r\n"


def _response(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + _END_OF_HEAD + body


_CHAT, _OTHER = _response(_ANSWER), _response(b"{}")


class _Connection(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = bytearray()

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(_END_OF_HEAD)) >= 0:
            head = bytes(self._received[:end]).lower()
            _, found, rest = head.partition(b"content-length:")
            length = int(rest.split(b"\r\n", 1)[0]) if found else 0
            whole = end + len(_END_OF_HEAD) + length
            if len(self._received) < whole:
                return
            del self._received[:whole]
            self._transport.write(_CHAT if head.startswith(b"post") else _OTHER)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
