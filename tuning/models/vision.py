"""What the part of a model that sees adds to its memory: weights that are loaded and never trained."""

from tunesmith.tuning.models.config_reader import ConfigReader, divisible


def siglip_parameters(reader: ConfigReader, *, hidden_size: int) -> int:
    """Of the tower and its projection into text states of `hidden_size`, as Gemma 3 builds them.

    Raises:
        InvalidRequest: a size is absurd.
    """
    size = reader.positive("hidden_size", default=768)
    width = reader.positive("intermediate_size", default=3072)
    layers = reader.positive("num_hidden_layers", default=12, most=1_000)
    pixels, patch = reader.positive("image_size", default=224), reader.positive("patch_size", default=16)
    patches = divisible(reader, field="image_size", value=pixels, by_field="patch_size", by=patch) ** 2
    channels = reader.positive("num_channels", default=3)
    norm, mlp, attention = 2 * size, 2 * size * width + width + size, 4 * size * (size + 1)
    embeddings = size * (channels * patch**2 + 1) + patches * size
    layer = attention + mlp + 2 * norm
    head = size + layer - norm if reader.flag("vision_use_head", default=True) else 0
    projection = size * hidden_size + size
    return embeddings + layers * layer + norm + head + projection
