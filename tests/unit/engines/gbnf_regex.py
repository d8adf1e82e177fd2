"""Turns the grammars of `serve_app.engines.schema` into regular expressions, to test them alone.

They never recurse, so every rule can be written out. Written against the GBNF notation, not against
the compiler.
"""

import re


def to_regex(gbnf: str) -> re.Pattern[str]:
    """Return a pattern that matches what the grammar's `root` matches."""
    rules = dict(line.split(" ::= ", 1) for line in gbnf.split("\n") if line)
    done: dict[str, str] = {}

    def expand(name: str) -> str:
        if name not in done:
            done[name] = expression_to_regex(rules[name], expand)
        return done[name]

    return re.compile(expand("root"), re.DOTALL)


def expression_to_regex(body: str, expand=None) -> str:
    """Translate one right-hand side."""
    out = []
    position = 0
    token = re.compile(
        r'\s+|"(?P<text>(?:\\.|[^"\\])*)"|(?P<set>\[(?:\\.|[^\]\\])*\])|(?P<op>[()|?*+]|\{[0-9,]+\})'
        r"|(?P<rule>[a-zA-Z][a-zA-Z0-9-]*)"
    )
    while position < len(body):
        match = token.match(body, position)
        assert match, body[position:]
        position = match.end()
        if match["text"] is not None:
            text = re.sub(r"\\(.)", r"\1", match["text"])
            out.append(f"(?:{re.escape(text)})")
        elif match["set"]:
            out.append(match["set"])
        elif match["op"]:
            out.append("(?:" if match["op"] == "(" else match["op"])
        elif match["rule"]:
            out.append(f"(?:{expand(match['rule'])})")
    return "(?:" + "".join(out) + ")"
