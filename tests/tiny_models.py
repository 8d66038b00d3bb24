"""What the models of the tests are made of."""

TINY_BACKBONE = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 16, 32],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_indices": [1, 2, 3, 4],
}
"""A transformers ResNet of 30 thousand parameters; its last grid is 1/32 of the image."""

LIVE_AGGREGATION = {"layer_scale_init_value": 0.5}
"""With the default of 0 nothing that the aggregation does would show before it has learned."""

CONTEXT_MODULES = ("none", "ppm", "aspp", "criss_cross", "upernet")
