"""Events for tests."""

from typing import Any

from experiments.events.records import Exposure, Feedback, Outcome, Transcript


def exposure(unit: str = "u1", **changes: Any) -> Exposure:
    fields: dict[str, Any] = {
        "experiment": "exp",
        "version": 1,
        "unit": unit,
        "variant": "stable",
        "probability": 0.9,
        "bucket": 5000,
        "exposed_at": 1_700_000_000.5,
        "inference_id": f"chatcmpl-{unit}",
        "served_model": "okla-chat",
        "tenant": "default",
        "config_hash": "0123456789ab",
        "model_sha256": "ab" * 32,
        "cached": False,
    }
    return Exposure(**(fields | changes))


def outcome(inference_id: str = "chatcmpl-1", **changes: Any) -> Outcome:
    fields: dict[str, Any] = {
        "inference_id": inference_id,
        "request_id": "r1",
        "finished_at": 1_700_000_001.0,
        "served_model": "okla-chat",
        "tenant": "default",
        "variant": "stable",
        "experiment": "exp",
        "version": 1,
        "unit": "u1",
        "exposure": "enrolled",
        "status": "ok",
        "error_code": None,
        "cache": "miss",
        "stream": False,
        "finish_reason": "stop",
        "prompt_tokens": 3,
        "completion_tokens": 5,
        "duration_s": 0.5,
        "ttft_s": 0.1,
        "retries": 0,
        "config_hash": "0123456789ab",
        "model_sha256": "ab" * 32,
    }
    return Outcome(**(fields | changes))


def feedback(feedback_id: str = "fb-1", **changes: Any) -> Feedback:
    fields: dict[str, Any] = {
        "feedback_id": feedback_id,
        "received_at": 1_700_000_002.0,
        "tenant": "default",
        "metric": "thumbs",
        "metric_type": "boolean",
        "level": "inference",
        "direction": "increase",
        "target": "chatcmpl-1",
        "value": 1.0,
        "text": None,
        "tags": "{}",
        "idempotency": None,
        "request_hash": "",
        "config_hash": "0123456789ab",
    }
    return Feedback(**(fields | changes))


def transcript(inference_id: str = "chatcmpl-1", **changes: Any) -> Transcript:
    fields: dict[str, Any] = {
        "inference_id": inference_id,
        "captured_at": 1_700_000_001.0,
        "tenant": "default",
        "messages": '[{"role": "user", "content": "klk"}]',
        "answer": '{"intent": "saludo", "response": "Dime a ver"}',
        "unrated_until": 1_700_000_100.0,
        "keep_until": 1_700_001_000.0,
    }
    return Transcript(**(fields | changes))
