"""Load published and home-made ViT checkpoints into timm models, and say what was loaded.

Images (MAE, ToMe, timm, DINOv2), video (mae_st, PySlowFast, VideoMAE) and sound (AudioMAE, AST): files,
folders as the Hugging Face Hub has them, its repositories by name (`hf-hub:OWNER/NAME`). `load` fills a
model, `identify` looks at a checkpoint first, `SOURCES` names the published files, `inflate` makes a
video model's weights of an image model's (a spectrogram model takes them as they are).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import CheckpointError as CheckpointError
    from .families import POOLING as POOLING
    from .families import PROP_ATTN as PROP_ATTN
    from .hub import from_hub as from_hub
    from .hub_config import ModelConfig as ModelConfig
    from .identity import Identity as Identity
    from .identity import identify as identify
    from .inflation import inflate as inflate
    from .loading import load as load
    from .positions import interpolate_positions as interpolate_positions
    from .preprocessing import Preprocessing as Preprocessing
    from .reading import state_dict_of as state_dict_of
    from .report import LoadReport as LoadReport
    from .sets import Which as Which
    from .sources import SOURCES as SOURCES
    from .sources import Source as Source

_HOMES = {
    "CheckpointError": "errors",
    "Identity": "identity",
    "LoadReport": "report",
    "ModelConfig": "hub_config",
    "POOLING": "families",
    "PROP_ATTN": "families",
    "Preprocessing": "preprocessing",
    "SOURCES": "sources",
    "from_hub": "hub",
    "Source": "sources",
    "Which": "sets",
    "identify": "identity",
    "inflate": "inflation",
    "interpolate_positions": "positions",
    "load": "loading",
    "state_dict_of": "reading",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    # Imported on first use: verbs that read JSON alone answer without torch.
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
