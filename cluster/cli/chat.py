"""`carril chat`: talk to a model in the terminal."""

import os
import sys
import uuid

from cluster.chat_stream import ChatClient
from cluster.cli.console import err, fail, note
from cluster.connection import resolve
from cluster.errors import CommandError

_QUIT = {"/quit", "/exit", "/q"}
_HELP = "/quit ends, /new forgets the conversation"


def run(
    message: str | None,
    *,
    model: str,
    variant: str | None,
    session: str | None,
    url: str | None,
    api_key: str | None,
) -> None:
    """Answer one message, or talk until `/quit`.

    Raises:
        CommandError: If a single message could not be answered.
    """
    client = ChatClient(
        resolve(http_url=url).http_url,
        api_key=api_key or os.environ.get("CARRIL_API_KEY"),
        session=session or f"cli-{uuid.uuid4().hex[:12]}",
    )
    target = f"{model}@{variant}" if variant else model
    if message is None and not sys.stdin.isatty():
        message = sys.stdin.read().strip()
    if message is not None:
        _answer(client, target, [{"role": "user", "content": message}])
        return
    note(f"{target} at {client.url}; {_HELP}")
    _converse(client, target)


def _converse(client: ChatClient, model: str) -> None:
    history: list[dict[str, str]] = []
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            return
        if text in _QUIT:
            return
        if text == "/new":
            history.clear()
            note("forgotten")
        elif text.startswith("/"):
            note(_HELP)
        elif text:
            _turn(client, model, history, text)


def _turn(client: ChatClient, model: str, history: list[dict[str, str]], text: str) -> None:
    history.append({"role": "user", "content": text})
    try:
        answer = _answer(client, model, history)
    except CommandError as error:
        # The conversation goes on; what was not answered is not part of it.
        history.pop()
        fail(error.message, error.fix)
        return
    history.append({"role": "assistant", "content": answer})


def _answer(client: ChatClient, model: str, messages: list[dict[str, str]]) -> str:
    answer = client.ask(model, messages, on_text=_show)
    sys.stdout.write("\n")
    err.print(answer.summary(), style="dim", markup=False, highlight=False, soft_wrap=True)
    return answer.text


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
