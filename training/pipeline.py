"""From a configuration to a model that ships: train, export, quantise, evaluate, describe."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from experiments.whole_file import opened_whole
from training.chat import ChatEncoder
from training.config import TrainConfig
from training.contract import PROFILE_DIR, chat_template
from training.data.catalog import Split, intent_names, load_catalog
from training.data.dataset import DatasetManifest, write_text
from training.data.generator import (
    Conversation,
    generate,
    phrases,
    replies_to_given_intents,
)
from training.errors import ArtefactError
from training.evaluate import EvalReport, evaluate
from training.exercises import TrainingSet
from training.export.gguf_writer import write_gguf
from training.export.huggingface import write_tokenizer_files
from training.export.quantise import quantise
from training.fit import NETWORK, TrainingRecord, fit, load_network
from training.learnt import Learnt, prepared_phrases, training_conversations
from training.manifest import (
    Architecture,
    Metrics,
    ModelManifest,
    file_sha256,
    now,
    write_manifest,
)
from training.packed import PackedExamples
from training.sources import sources_sha256
from training.tokenizer import (
    BOS,
    EOS,
    EOT,
    base_tokenizer,
    save_tokenizer,
    special_id,
    train_tokenizer,
)
from training.trainer import mean_loss
from training.training_set import TRAINING_SET, read_training_set, write_training_set

TOKENIZER = "tokenizer.json"

Report = Callable[[str], None]

MAX_MEASURED = 600
"""Held-out conversations that a training answers; `carril eval run` measures on all suites."""

_MAX_OPENINGS = 6_000
_MAX_OPENING_TOKENS = 256


def run(
    config: TrainConfig, out_dir: Path, *, dataset: DatasetManifest, report: Report
) -> ModelManifest:
    """Do everything below `out_dir` and return the manifest of the finished model.

    The folder then holds `tokenizer.json`, the network for Hugging Face, the F32 and the Q4_K_M
    GGUF, `metrics.json` and, written last, the manifest.

    Args:
        config: The configuration.
        out_dir: Work folder. A checkpoint of the same configuration there is resumed.
        dataset: What the configuration's data came out as.
        report: Receives one line of progress at a time.

    Raises:
        TrainingError: With the reason, when a step does not keep its promise.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    code_commit = _code_commit()  # of the code that runs now: HEAD may move while it trains
    prepare(config, out_dir, report=report)
    tokenizer = Tokenizer.from_file(str(out_dir / TOKENIZER))
    record = fit(config, out_dir, report=report)
    network = load_network(out_dir)
    write_tokenizer_files(
        out_dir / NETWORK, tokenizer.to_str(pretty=True), bos=BOS, eos=EOT, template=chat_template()
    )
    heldout = list(generate(config.data, Split.HELDOUT, at_most=MAX_MEASURED))
    encoder = ChatEncoder(tokenizer)
    encoded = [encoder.encode(c.messages, max_tokens=config.optim.max_tokens) for c in heldout]
    heldout_loss = mean_loss(network, encoded, prefix=encoder.shared_ids)
    report(f"held-out loss {heldout_loss:.3f} nats per token")

    model, tensor_types = _export(config, network, tokenizer, out_dir, report)
    evaluation = _evaluate(config, model, tokenizer, heldout, report)
    metrics = _metrics(evaluation, heldout_loss=heldout_loss, train_loss=record.final_loss)
    write_text(out_dir / "metrics.json", _metrics_json(evaluation, metrics, record))
    manifest = ModelManifest(
        name=config.name,
        version=config.version,
        description=config.description,
        file=model.name,
        sha256=file_sha256(model),
        size_bytes=model.stat().st_size,
        quantisation="Q4_K_M",
        tensor_types=tensor_types,
        architecture=_architecture(config, record.n_params),
        dataset_sha256=config.dataset.sha256 if config.dataset else dataset.sha256,
        tokenizer_sha256=file_sha256(out_dir / TOKENIZER),
        config_sha256=config.sha256(),
        system_prompt_sha256=file_sha256(PROFILE_DIR / "system_prompt.txt"),
        answer_schema_sha256=file_sha256(PROFILE_DIR / "answer.schema.json"),
        chat_template_sha256=file_sha256(PROFILE_DIR / "chat_template.jinja"),
        seed=config.seed,
        code_commit=code_commit,
        metrics=metrics,
        created_at=now(),
    )
    write_manifest(manifest, out_dir)
    return manifest


def prepare(config: TrainConfig, out_dir: Path, *, report: Report) -> Path:
    """Write `tokenizer.json` and `training_set.npz`, all that `fit` needs (and the `base`, if any).

    A training set that is there and was made of the same stays: making one can take long.

    Args:
        config: The configuration.
        out_dir: Work folder.
        report: Receives one line of progress at a time.

    Returns:
        The training set's file.

    Raises:
        TrainingError: If a base cannot be read, or the corpus is too small for the vocabulary.
    """
    path, made = out_dir / TOKENIZER, out_dir / TRAINING_SET
    with suppress(ArtefactError, OSError):
        read_training_set(made, config, made_of=_made_of(path))
        report("the training set is there")
        return made
    tokenizer = _tokenizer(config, report)
    save_tokenizer(tokenizer, path)
    report("encoding what is learnt")
    data = _training_set(config, tokenizer)
    write_training_set(data, config, made, made_of=_made_of(path))
    return made


def _made_of(tokenizer: Path) -> str:
    """Return the hash of all that a training set is made of beside its configuration."""
    return hashlib.sha256(f"{sources_sha256()} {file_sha256(tokenizer)}".encode()).hexdigest()


def _tokenizer(config: TrainConfig, report: Report) -> Tokenizer:
    if config.base is None:
        report("training the tokenizer")
        return train_tokenizer(config.tokenizer, seed=config.data.seed)
    report("taking over the base's tokenizer")
    return base_tokenizer(config.base, vocab_size=config.tokenizer.vocab_size)


def _training_set(config: TrainConfig, tokenizer: Tokenizer) -> TrainingSet:
    learnt = training_conversations(config)
    encoder = ChatEncoder(tokenizer)
    limit = config.optim.max_tokens
    said = chain(phrases(config.data, config.optim.n_phrases), prepared_phrases(config, learnt))
    answers = (encoder.encode(c.messages, max_tokens=limit) for c in learnt)
    given = (
        encoder.encode(c.messages, max_tokens=limit, is_intent_given=True)
        for c in replies_to_given_intents(config.data, config.optim.n_given_intents)
    )
    return TrainingSet(
        answers=PackedExamples.of(chain(answers, given), prefix=encoder.shared_ids),
        intents=PackedExamples.of(
            (encoder.encode_intent(p.text, p.intent) for p in said), prefix=encoder.system_ids
        ),
        prefix=encoder.shared_ids,
        system_ids=encoder.system_ids,
        openings=_openings(encoder, learnt),
        around=encoder.around_ids,
        n_after=encoder.n_after,
        label_ids=[encoder.intent_id(name) for name in intent_names()],
        lost_id=special_id(tokenizer, EOS),
        pieces=[tokenizer.decode([i]) for i in range(config.tokenizer.vocab_size)],
    )


def _openings(encoder: ChatEncoder, learnt: Sequence[Learnt]) -> list[tuple[int, ...]]:
    """Return what stands before the last message in those conversations that have something."""
    before = (encoder.opening_ids(c.messages) for c in learnt[:_MAX_OPENINGS])
    return [ids for ids in before if len(encoder.system_ids) < len(ids) <= _MAX_OPENING_TOKENS]


def _export(
    config: TrainConfig,
    network: LlamaForCausalLM,
    tokenizer: Tokenizer,
    out_dir: Path,
    report: Report,
) -> tuple[Path, dict[str, int]]:
    report("exporting and quantising")
    full = out_dir / f"{config.name}.F32.gguf"
    write_gguf(network, tokenizer, full, name=config.name, version=config.version)
    model = out_dir / f"{config.name}.Q4_K_M.gguf"
    return model, quantise(full, model, threads=config.threads)


def _evaluate(
    config: TrainConfig,
    model: Path,
    tokenizer: Tokenizer,
    heldout: list[Conversation],
    report: Report,
) -> EvalReport:
    def on_progress(done: int, total: int) -> None:
        if done % 50 == 0 or done == total:
            report(f"evaluated {done}/{total} held-out conversations")

    names = sorted({model for _, model in load_catalog().slots.vehicles})
    return evaluate(
        model,
        tokenizer,
        heldout,
        vehicle_names=names,
        threads=config.threads,
        on_progress=on_progress,
    )


def install(out_dir: Path, manifest: ModelManifest, models_dir: Path) -> None:
    """Copy a finished model and its manifest to the folder from which models are served.

    Args:
        out_dir: Work folder of the training.
        manifest: What `run` returned.
        models_dir: For example `models/okla`.
    """
    models_dir.mkdir(parents=True, exist_ok=True)
    target = models_dir / manifest.file
    with (out_dir / manifest.file).open("rb") as source, opened_whole(target) as file:
        shutil.copyfileobj(source, file)
    write_manifest(manifest, models_dir)


def _architecture(config: TrainConfig, n_params: int) -> Architecture:
    shape = config.model
    return Architecture(
        n_layers=shape.n_layers,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        n_heads=shape.n_heads,
        n_kv_heads=shape.n_kv_heads,
        vocab_size=config.tokenizer.vocab_size,
        context_length=shape.context_length,
        n_params=n_params,
    )


def _metrics(evaluation: EvalReport, *, heldout_loss: float, train_loss: float) -> Metrics:
    registers = evaluation.intent_accuracy_by_register
    return Metrics(
        n_conversations=evaluation.intent_accuracy.n,
        heldout_loss=round(heldout_loss, 4),
        train_loss=round(train_loss, 4),
        json_validity=evaluation.json_validity.value,
        intent_accuracy=evaluation.intent_accuracy.value,
        signals_accuracy=evaluation.signals_accuracy.value,
        handoff_accuracy=evaluation.handoff_accuracy.value,
        echo_accuracy=evaluation.echo_accuracy.value,
        intent_accuracy_by_register={name: share.value for name, share in registers.items()},
        mean_reply_tokens=evaluation.mean_reply_tokens,
    )


def _metrics_json(evaluation: EvalReport, metrics: Metrics, record: TrainingRecord) -> str:
    document = {
        "summary": metrics.model_dump(mode="json"),
        "evaluation": evaluation.model_dump(mode="json"),
        "training": record.model_dump(mode="json"),
    }
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


def _code_commit() -> str | None:
    """Return the commit of the checkout that this file belongs to, or None outside one."""
    git = shutil.which("git")
    if git is None:
        return None
    folder = str(Path(__file__).resolve().parent)
    done = subprocess.run(
        [git, "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None
