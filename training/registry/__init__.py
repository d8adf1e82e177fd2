"""The model registry's writers: register, judge, promote, roll back; the card; MLflow beside it."""

from training.registry.card import model_card
from training.registry.promotion import (
    AttachedGate,
    Change,
    Deployment,
    attach_gate,
    promote,
    retire,
    rollback,
)
from training.registry.registration import Registration, register

__all__ = [
    "AttachedGate",
    "Change",
    "Deployment",
    "Registration",
    "attach_gate",
    "model_card",
    "promote",
    "register",
    "retire",
    "rollback",
]
