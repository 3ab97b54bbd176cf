"""What a model reads, a file a modality: each input knows the timm arguments that make a ViT for it."""

from tome_lightning.inputs.base import Input, InputError
from tome_lightning.inputs.clip import Clip
from tome_lightning.inputs.image import Image
from tome_lightning.inputs.spectrogram import Spectrogram

__all__ = ["Clip", "Image", "Input", "InputError", "Spectrogram"]
