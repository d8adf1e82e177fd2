"""Single messages with their intents as a file: what classifiers of messages learn from."""

import hashlib
import json
from pathlib import Path

from experiments.whole_file import opened_whole
from training.data.generator import DataConfig, phrases


def write_messages(config: DataConfig, n: int, out: Path) -> str:
    """Write messages of the training part, a JSON line each; return the file's SHA-256.

    A line has the form of a dataset's (`intent` and `messages`), so that whatever reads labelled
    conversations reads it. No words are left out: that is for networks, which learn words by heart.

    Args:
        config: What they are made of.
        n: How many; intents and phrases take turns.
        out: The file, which appears whole or not at all; its folder is made.
    """
    whole = config.model_copy(update={"lost_words_percent": 0})
    digest = hashlib.sha256()
    out.parent.mkdir(parents=True, exist_ok=True)
    with opened_whole(out) as file:
        for text, intent in phrases(whole, n):
            record = {"intent": intent, "messages": [{"role": "user", "content": text}]}
            line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
            digest.update(line)
            file.write(line)
    return digest.hexdigest()
