"""From a configuration to files that serve: train, merge, export, prove, quantise, measure."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from experiments.jobs.code_state import CodeState, code_state
from training.chat import Encoded
from training.contract import PROFILE_DIR
from training.data.dataset import write_text
from training.export.adapter_writer import write_adapter_gguf
from training.export.gguf_writer import write_network
from training.export.huggingface import write_tokenizer_files
from training.export.llama_runtime import open_gguf
from training.export.quantise import check_types, quantise
from training.jobs.run_lock import FILE as LOCK_FILE
from training.jobs.run_lock import to_text
from training.lora.base import base_sha256, open_base
from training.lora.config import LoraConfig, MergePrecision, SystemPrompt
from training.lora.dataset import DatasetError, Example, read_dataset
from training.lora.encoding import TemplateEncoder
from training.lora.lock import identity, lora_lock, with_history
from training.lora.metrics import AnswerScores, StepMetrics, score_answers
from training.lora.network import load_base, load_for_training, merge
from training.lora.parity import Parity, check_parity
from training.lora.placement import Placement, place
from training.lora.trainer import CHECKPOINT, LoraData, LoraResult, LoraTrainer
from training.manifest import (
    Architecture,
    Metrics,
    ModelManifest,
    file_sha256,
    now,
    write_manifest,
)
from training.network import count_parameters, make_deterministic

Report = Callable[[str], None]

ADAPTER_DIR = "adapter"
MERGED_DIR = "hf"
_PROMPT, _SCHEMA, _TEMPLATE = "system_prompt.txt", "answer.schema.json", "chat_template.jinja"
"""Files of a profile."""
_N_PARITY_PROMPTS = 4


def _ignore(_: StepMetrics) -> None:
    """Take the figures of a step and do nothing with them."""


def _never() -> bool:
    return False


class LoraRun:
    """One run in one folder.

    Args:
        config: The configuration.
        out_dir: Work folder; a checkpoint of the same run there is resumed.
        report: Receives one line of progress at a time.
        code: The code that runs; None looks.

    Raises:
        ConfigError: If base, placement or chat template cannot be had as asked for.
        DatasetError: If the data cannot be learnt from.
    """

    def __init__(
        self, config: LoraConfig, out_dir: Path, *, report: Report, code: CodeState | None = None
    ) -> None:
        self._config, self._out, self._report = config, out_dir, report
        # Of the code that runs now: HEAD may move while it trains.
        self._code = code or code_state()
        self._base = open_base(config.base, template=config.chat_template, q4_k_m=config.q4_k_m)
        self.where: Placement = place(config)
        self._dataset = read_dataset(config.dataset)
        self._encoder = TemplateEncoder(self._base, prompt=config.system_prompt)
        self._data = self._encode()
        self._base_hash = base_sha256(self._base)

    @property
    def dataset_sha256(self) -> str:
        """Hash of the data."""
        return self._dataset.sha256

    def run(
        self,
        *,
        on_step: Callable[[StepMetrics], None] = _ignore,
        stop_asked: Callable[[], bool] = _never,
    ) -> ModelManifest:
        """Do everything and return the manifest of the finished model.

        The folder then holds `run.lock.json`, `metrics.jsonl`, the adapter for PEFT and as GGUF,
        the merged network for Hugging Face, its F16 and Q4_K_M GGUF, `report.json`, the profile to
        serve it with and, written last, the manifest.

        Args:
            on_step: Receives the figures of every step.
            stop_asked: Asked after every step.

        Raises:
            TrainingStopped: If that said yes; the checkpoint is written.
            TrainingError: With the reason, when a step does not keep its promise.
        """
        self._out.mkdir(parents=True, exist_ok=True)
        trained = self._train(on_step, stop_asked)
        exported = self._export()
        scores = self._measure(exported.model)
        write_text(self._out / "report.json", _report_json(trained, exported, scores, self.where))
        manifest = self._manifest(trained, exported, scores)
        write_manifest(manifest, self._out)
        return manifest

    def _encode(self) -> LoraData:
        limit = self._config.optim.max_tokens
        n_shortened = 0
        faults: list[str] = []

        def encoded(examples: Sequence[Example], split: str) -> list[Encoded]:
            nonlocal n_shortened
            done = []
            for number, example in enumerate(examples, start=1):
                try:
                    item = self._encoder.encode(example, max_tokens=limit)
                except ValueError as err:
                    faults.append(f"{split} {example.id or f'conversation {number}'}: {err}")
                    continue
                n_shortened += item.n_dropped_turns > 0
                done.append(item.encoded)
            return done

        train = encoded(self._dataset.train, "train")
        dev = encoded(_spread(self._dataset.dev, self._config.sample.n_loss), "dev")
        n_batch = self._config.optim.batch_size
        if len(train) < n_batch and not faults:
            faults.append(f"train.jsonl has {len(train)} conversations, a batch {n_batch}")
        if faults:
            raise DatasetError(faults)
        if n_shortened:
            self._report(
                f"{n_shortened} conversations lost their oldest turns to fit {limit} tokens"
            )
        sample = _spread(self._dataset.dev, self._config.sample.n_conversations)
        return LoraData(train=train, dev=dev, sample=sample)

    def _write_lock(self) -> None:
        lock = lora_lock(
            self._config, self._base, self._base_hash, self._dataset, self.where, self._code
        )
        path = self._out / LOCK_FILE
        if path.exists() and (self._out / CHECKPOINT).exists():
            lock, changes = with_history(lock, path)
            for line in changes:
                self._report(f"changed since this training began: {line}")
        write_text(path, to_text(lock))

    def _train(
        self, on_step: Callable[[StepMetrics], None], stop_asked: Callable[[], bool]
    ) -> LoraResult:
        config, where = self._config, self.where
        self._report(
            f"training an adapter of rank {config.adapter.rank} on {where.chip} in "
            f"{where.precision}, base {where.quant_backend} ({where.quant_reason})"
        )
        make_deterministic(config.seed, config.threads)
        if where.device == "cuda":
            # Kernels of a GPU are not all deterministic; same weights are promised on CPUs only.
            torch.use_deterministic_algorithms(False)
        network = load_for_training(self._base, config.adapter, where)
        trainer = LoraTrainer(
            config,
            network,
            self._data,
            self._encoder,
            where,
            out_dir=self._out,
            identity=identity(config, self._base_hash, self._dataset, where),
            n_parameters=self._base.n_parameters,
        )
        self._write_lock()  # after a checkpoint of another run was refused: that one keeps its lock
        result = trainer.run(report=self._report, on_step=on_step, stop_asked=stop_asked)
        network.save_pretrained(self._out / ADAPTER_DIR, save_embedding_layers=False)
        return result

    def _export(self) -> "Exported":
        config, base, out = self._config, self._base, self._out
        self._report(f"merging in {config.merge_precision} and exporting")
        merged = merge(base, out / ADAPTER_DIR, _DTYPES[config.merge_precision])
        merged.save_pretrained(out / MERGED_DIR)
        self._copy_tokenizer(out / MERGED_DIR)
        full = out / f"{config.name}.F16.gguf"
        self._write_model(merged, full, name=config.name)
        adapter = out / f"{config.name}.adapter.gguf"
        write_adapter_gguf(
            load_file(out / ADAPTER_DIR / "adapter_model.safetensors"),
            merged.config,
            adapter,
            name=config.name,
            version=config.version,
            license_=config.license,
            alpha=config.adapter.alpha,
            base_name=base.name,
        )
        parity = [self._parity(merged, full)]
        if config.base_gguf:
            under = out / f"{config.name}.base.F16.gguf"
            self._write_model(load_base(base, torch.float32), under, name=base.name)
            parity.append(self._parity(merged, under, adapter))
        model, types = full, check_types(full, frozenset({"F16", "F32"}))
        if config.q4_k_m:
            model = out / f"{config.name}.Q4_K_M.gguf"
            types = quantise(full, model, threads=config.threads)
        return Exported(model, types, tuple(parity), _architecture(merged))

    def _write_model(self, network: LlamaForCausalLM, path: Path, *, name: str) -> None:
        config = self._config
        write_network(
            network,
            self._base.vocabulary,
            path,
            name=name,
            version=config.version,
            license_=config.license,
            half=True,
        )

    def _parity(
        self, network: LlamaForCausalLM, model: Path, adapter: Path | None = None
    ) -> Parity:
        parity = check_parity(
            network,
            self._encoder,
            _spread(self._dataset.dev, _N_PARITY_PROMPTS),
            model,
            template=self._base.template,
            threads=self._config.threads,
            adapter=adapter,
        )
        what = model.name + (f" with {adapter.name}" if adapter else "")
        self._report(f"{what} is the merged network: logits within {parity.logit_difference}")
        return parity

    def _copy_tokenizer(self, folder: Path) -> None:
        base = self._base
        tokenizer = base.tokenizer_path.read_text(encoding="utf-8")
        write_tokenizer_files(folder, tokenizer, bos=base.bos, eos=base.eos, template=base.template)

    def _write_profile(self) -> Path:
        """Write what the model is to be served with, which the registry keeps with it."""
        folder = self._out / "profile"
        folder.mkdir(exist_ok=True)
        with_prompt = self._config.system_prompt is SystemPrompt.PROFILE
        prompt = (PROFILE_DIR / _PROMPT).read_text(encoding="utf-8") if with_prompt else ""
        write_text(folder / _PROMPT, prompt)  # an empty one: served without
        write_text(folder / _SCHEMA, (PROFILE_DIR / _SCHEMA).read_text(encoding="utf-8"))
        write_text(folder / _TEMPLATE, self._base.template)
        return folder

    def _measure(self, model: Path) -> AnswerScores:
        """Let the file that ships answer conversations that were not trained on."""
        examples = _spread(self._dataset.heldout or self._dataset.dev, self._config.sample.n_final)
        limit = self._config.sample.max_new_tokens
        answers: list[list[int]] = []
        longest = max(len(self._encoder.prompt_ids(e.messages[:-1])) for e in examples)
        with open_gguf(model, n_ctx=longest + limit, threads=self._config.threads) as gguf:
            for example in examples:
                prompt = self._encoder.prompt_ids(example.messages[:-1])
                answers.append(gguf.generate(prompt, stop=self._encoder.eos_id, max_tokens=limit))
                if len(answers) % 10 == 0 or len(answers) == len(examples):
                    self._report(f"measured {len(answers)}/{len(examples)} conversations")
        texts = [self._encoder.decode(ids) for ids in answers]
        return score_answers(examples, texts, [len(ids) for ids in answers])

    def _manifest(
        self, trained: LoraResult, exported: "Exported", scores: AnswerScores
    ) -> ModelManifest:
        config, base = self._config, self._base
        profile = self._write_profile()
        return ModelManifest(
            name=config.name,
            version=config.version,
            description=config.description,
            file=exported.model.name,
            sha256=file_sha256(exported.model),
            size_bytes=exported.model.stat().st_size,
            quantisation="Q4_K_M" if config.q4_k_m else "F16",
            tensor_types=exported.tensor_types,
            architecture=exported.architecture,
            dataset_sha256=self._dataset.sha256,
            tokenizer_sha256=file_sha256(base.tokenizer_path),
            config_sha256=config.sha256(),
            system_prompt_sha256=file_sha256(profile / _PROMPT),
            answer_schema_sha256=file_sha256(profile / _SCHEMA),
            chat_template_sha256=file_sha256(profile / _TEMPLATE),
            seed=config.seed,
            code_commit=self._code.commit,
            metrics=Metrics(
                n_conversations=scores.n,
                heldout_loss=round(trained.dev_loss, 4),
                train_loss=round(trained.final_loss, 4),
                json_validity=scores.json_validity,
                intent_accuracy=scores.intent_accuracy,
                signals_accuracy=None,
                handoff_accuracy=None,
                echo_accuracy=None,
                intent_accuracy_by_register=scores.intent_accuracy_by_register,
                mean_reply_tokens=scores.mean_tokens,
            ),
            created_at=now(),
            license=config.license,
        )


class Exported(NamedTuple):
    """The files of a run."""

    model: Path
    """What ships."""
    tensor_types: dict[str, int]
    parity: tuple[Parity, ...]
    """The F16 file against the merged network; then base and adapter, where both were written."""
    architecture: Architecture


_DTYPES = {MergePrecision.FP32: torch.float32, MergePrecision.BF16: torch.bfloat16}


def _spread(examples: Sequence[Example], n: int) -> list[Example]:
    """Return up to n examples, evenly over all of them: files are often sorted by class."""
    n = min(n, len(examples))
    return [examples[i * len(examples) // n] for i in range(n)]


def _architecture(network: LlamaForCausalLM) -> Architecture:
    shape = network.config
    return Architecture(
        n_layers=shape.num_hidden_layers,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        n_heads=shape.num_attention_heads,
        n_kv_heads=shape.num_key_value_heads,
        vocab_size=shape.vocab_size,
        context_length=shape.max_position_embeddings,
        n_params=count_parameters(network),
    )


def _report_json(
    trained: LoraResult, exported: Exported, scores: AnswerScores, where: Placement
) -> str:
    document = {
        "training": asdict(trained),
        "placement": where._asdict(),
        "parity": [asdict(parity) for parity in exported.parity],
        "answers": asdict(scores),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
