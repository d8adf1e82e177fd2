"""From a configuration to a model that ships: train, export, quantise, evaluate, describe."""

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from experiments.whole_file import opened_whole
from training.chat import ChatEncoder
from training.config import TrainConfig
from training.contract import PROFILE_DIR, chat_template
from training.data.catalog import Split, intent_names, load_catalog
from training.data.dataset import write_dataset, write_text
from training.data.generator import (
    Conversation,
    generate,
    phrases,
    replies_to_given_intents,
)
from training.evaluate import EvalReport, evaluate
from training.exercises import TrainingSet
from training.export.gguf_writer import write_gguf
from training.export.huggingface import write_tokenizer_files
from training.export.quantise import quantise
from training.learnt import Learnt, prepared_phrases, training_conversations
from training.manifest import (
    Architecture,
    Metrics,
    ModelManifest,
    file_sha256,
    now,
    write_manifest,
)
from training.network import count_parameters, save_network
from training.tokenizer import BOS, EOT, base_tokenizer, save_tokenizer, train_tokenizer
from training.trainer import Progress, TrainResult, mean_loss, train

Report = Callable[[str], None]

MAX_MEASURED = 600
"""Held-out conversations that a training answers; `carril eval run` measures on all suites."""

_MAX_OPENINGS = 6_000
_MAX_OPENING_TOKENS = 256


def run(config: TrainConfig, out_dir: Path, *, report: Report) -> ModelManifest:
    """Do everything below `out_dir` and return the manifest of the finished model.

    The folder then holds the dataset, `tokenizer.json`, the network for Hugging Face, the F32 and
    the Q4_K_M GGUF, `metrics.json` and, written last, the manifest.

    Args:
        config: The configuration.
        out_dir: Work folder. A checkpoint of the same configuration there is resumed.
        report: Receives one line of progress at a time.

    Raises:
        TrainingError: With the reason, when a step does not keep its promise.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    code_commit = _code_commit()  # of the code that runs now: HEAD may move while it trains
    report("writing the dataset")
    dataset = write_dataset(config.data, out_dir / "data")
    learnt = training_conversations(config)
    tokenizer = _tokenizer(config, report)
    tokenizer_sha256 = save_tokenizer(tokenizer, out_dir / "tokenizer.json")

    result = _train(config, learnt, tokenizer, out_dir, report)
    heldout = _spread(list(generate(config.data, Split.HELDOUT)), MAX_MEASURED)
    encoder = ChatEncoder(tokenizer)
    encoded = [encoder.encode(c.messages, max_tokens=config.optim.max_tokens) for c in heldout]
    heldout_loss = mean_loss(result.network, encoded, prefix=encoder.shared_ids)
    report(f"held-out loss {heldout_loss:.3f} nats per token")

    model, tensor_types = _export(config, result, tokenizer, out_dir, report)
    evaluation = _evaluate(config, model, tokenizer, heldout, report)
    metrics = _metrics(evaluation, heldout_loss=heldout_loss, train_loss=result.final_loss)
    write_text(out_dir / "metrics.json", _metrics_json(evaluation, metrics, result))
    manifest = ModelManifest(
        name=config.name,
        version=config.version,
        description=config.description,
        file=model.name,
        sha256=file_sha256(model),
        size_bytes=model.stat().st_size,
        quantisation="Q4_K_M",
        tensor_types=tensor_types,
        architecture=_architecture(config, count_parameters(result.network)),
        dataset_sha256=config.dataset.sha256 if config.dataset else dataset.sha256,
        tokenizer_sha256=tokenizer_sha256,
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


def _tokenizer(config: TrainConfig, report: Report) -> Tokenizer:
    if config.base is None:
        report("training the tokenizer")
        return train_tokenizer(config.tokenizer, seed=config.data.seed)
    report("taking over the base's tokenizer")
    return base_tokenizer(config.base, vocab_size=config.tokenizer.vocab_size)


def _spread(conversations: list[Conversation], most: int) -> list[Conversation]:
    """Return at most so many conversations, evenly from the whole list."""
    step = max(1, -(-len(conversations) // most))
    return conversations[::step]


def _train(
    config: TrainConfig,
    learnt: Sequence[Learnt],
    tokenizer: Tokenizer,
    out_dir: Path,
    report: Report,
) -> TrainResult:
    encoder = ChatEncoder(tokenizer)
    limit = config.optim.max_tokens
    said = [*phrases(config.data, config.optim.n_phrases), *prepared_phrases(config, learnt)]
    number = {intent: i for i, intent in enumerate(intent_names())}
    data = TrainingSet(
        answers=[
            *(encoder.encode(c.messages, max_tokens=limit) for c in learnt),
            *(
                encoder.encode(c.messages, max_tokens=limit, is_intent_given=True)
                for c in replies_to_given_intents(config.data, config.optim.n_given_intents)
            ),
        ],
        intents=[encoder.encode_intent(p.text, p.intent) for p in said],
        prefix=encoder.shared_ids,
        system_ids=encoder.system_ids,
        openings=_openings(encoder, learnt),
        bags=[(encoder.text_ids(p.text), number[p.intent]) for p in said],
        around=encoder.around_ids,
        n_after=encoder.n_after,
        label_ids=[encoder.intent_id(name) for name in number],
        pieces=[tokenizer.decode([i]) for i in range(config.tokenizer.vocab_size)],
    )

    def on_progress(progress: Progress) -> None:
        report(
            f"step {progress.step}/{progress.n_steps}  loss {progress.loss:.3f}  "
            f"{progress.tokens_per_second:,.0f} tokens/s  {progress.eta_s:,.0f} s left"
        )

    result = train(config, data, out_dir=out_dir, on_progress=on_progress)
    save_network(result.network, out_dir / "hf")
    write_tokenizer_files(
        out_dir / "hf", tokenizer.to_str(pretty=True), bos=BOS, eos=EOT, template=chat_template()
    )
    return result


def _openings(encoder: ChatEncoder, learnt: Sequence[Learnt]) -> list[tuple[int, ...]]:
    """Return what stands before the last message in those conversations that have something."""
    before = (encoder.opening_ids(c.messages) for c in learnt[:_MAX_OPENINGS])
    return [ids for ids in before if len(encoder.system_ids) < len(ids) <= _MAX_OPENING_TOKENS]


def _export(
    config: TrainConfig, result: TrainResult, tokenizer: Tokenizer, out_dir: Path, report: Report
) -> tuple[Path, dict[str, int]]:
    report("exporting and quantising")
    full = out_dir / f"{config.name}.F32.gguf"
    write_gguf(result.network, tokenizer, full, name=config.name, version=config.version)
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


def _metrics_json(evaluation: EvalReport, metrics: Metrics, result: TrainResult) -> str:
    document = {
        "summary": metrics.model_dump(mode="json"),
        "evaluation": evaluation.model_dump(mode="json"),
        "training": {"tokens_seen": result.tokens_seen, "wall_s": round(result.wall_s, 1)},
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
