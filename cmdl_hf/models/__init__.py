"""The models. These files import only torch, timm and transformers, because they are saved with every model."""

from transformers import AutoConfig, AutoModelForSemanticSegmentation

from .adapter_cmdl import CMDLAdapter
from .aggregation_cmdl import CMDLAttention, CMDLSemanticAggregation, collect_votes, divide_votes, scale_channels
from .allowed_cmdl import check_timm_name, check_timm_options, check_transformers_config
from .assignment_cmdl import sinkhorn
from .configuration_cmdl import CMDLConfig
from .context_registry_cmdl import CONTEXT_MODULES, find_context_module, list_frameworks, register_context_module
from .distributions_cmdl import CMDLDistributionLearning, CMDLProjectionHead, labels_on_grid
from .folding_cmdl import fold_batch_norms
from .hub_errors_cmdl import can_reach_hub, check_hub_name, explain_hub_error
from .memory_cmdl import CMDLMemoryBank
from .modeling_cmdl import CMDLForSemanticSegmentation, CMDLPreTrainedModel, CMDLSemanticSegmenterOutput
from .segmenter_cmdl import find_logits

AutoConfig.register("cmdl", CMDLConfig, exist_ok=True)
AutoModelForSemanticSegmentation.register(CMDLConfig, CMDLForSemanticSegmentation, exist_ok=True)
# Every saved model then contains these source files as remote code: transformers loads the model without cmdl_hf, with
# trust_remote_code=True.
CMDLConfig.register_for_auto_class()
CMDLForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")

__all__ = [
    "CONTEXT_MODULES",
    "CMDLAdapter",
    "CMDLAttention",
    "CMDLConfig",
    "CMDLDistributionLearning",
    "CMDLForSemanticSegmentation",
    "CMDLMemoryBank",
    "CMDLPreTrainedModel",
    "CMDLProjectionHead",
    "CMDLSemanticAggregation",
    "CMDLSemanticSegmenterOutput",
    "can_reach_hub",
    "check_hub_name",
    "check_timm_name",
    "check_timm_options",
    "check_transformers_config",
    "collect_votes",
    "divide_votes",
    "explain_hub_error",
    "find_context_module",
    "find_logits",
    "fold_batch_norms",
    "labels_on_grid",
    "list_frameworks",
    "register_context_module",
    "scale_channels",
    "sinkhorn",
]
