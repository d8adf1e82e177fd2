"""Everything that is built from one gateway configuration."""

from dataclasses import dataclass

from serve_app.config import GatewayConfig
from serve_app.gateway.admission import Admission
from serve_app.gateway.feedback import FeedbackService
from serve_app.gateway.inference_ids import InferenceIds
from serve_app.gateway.policy import Policy
from serve_app.gateway.service import Service
from serve_app.gateway.shadow import ShadowTraffic
from serve_app.gateway.sticky import StickyUnits
from serve_app.gateway.variants import VariantClient
from serve_app.telemetry.tracing import Tracing


@dataclass(frozen=True, slots=True, kw_only=True)
class Active:
    """One configuration in force. Replaced as a whole; requests keep the one they began with."""

    config: GatewayConfig
    policy: Policy
    sticky: StickyUnits
    variants: dict[str, VariantClient]
    service: Service
    shadow: ShadowTraffic
    admission: Admission
    ids: InferenceIds
    feedback: FeedbackService
    tracing: Tracing
