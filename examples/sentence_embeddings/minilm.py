"""all-MiniLM-L6-v2 in plain torch: a BERT of six layers, its outputs averaged and normalised.

The tensors are looked up by the names that they have in the safetensors file.
"""

import torch.nn.functional as F
from torch import Tensor

LAYERS = 6
HEADS = 12
EPSILON = 1e-12


class MiniLM:
    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def __call__(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Embed texts of (batch, length) tokens as (batch, 384) vectors of unit length.

        ``mask`` is True where there is a token and False where there is padding.
        """
        hidden = self._embed(tokens)
        for layer in range(LAYERS):
            name = f"encoder.layer.{layer}"
            seen = self._linear(self._attend(hidden, mask, name), f"{name}.attention.output.dense")
            hidden = self._norm(hidden + seen, f"{name}.attention.output.LayerNorm")
            wide = F.gelu(self._linear(hidden, f"{name}.intermediate.dense"))
            thought = self._linear(wide, f"{name}.output.dense")
            hidden = self._norm(hidden + thought, f"{name}.output.LayerNorm")
        present = mask.unsqueeze(-1)
        mean = (hidden * present).sum(dim=1) / present.sum(dim=1)
        return F.normalize(mean, dim=1)

    def _embed(self, tokens: Tensor) -> Tensor:
        words = F.embedding(tokens, self.tensors["embeddings.word_embeddings.weight"])
        positions = self.tensors["embeddings.position_embeddings.weight"][: tokens.shape[1]]
        # One text at a time: every token is of type 0.
        kind = self.tensors["embeddings.token_type_embeddings.weight"][0]
        return self._norm(words + positions + kind, "embeddings.LayerNorm")

    def _attend(self, hidden: Tensor, mask: Tensor, name: str) -> Tensor:
        query, key, value = (
            self._linear(hidden, f"{name}.attention.self.{part}")
            .unflatten(-1, (HEADS, -1))
            .transpose(1, 2)
            for part in ("query", "key", "value")
        )
        attended = F.scaled_dot_product_attention(query, key, value, mask[:, None, None, :])
        return attended.transpose(1, 2).flatten(start_dim=2)

    def _linear(self, hidden: Tensor, name: str) -> Tensor:
        return F.linear(hidden, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def _norm(self, hidden: Tensor, name: str) -> Tensor:
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        return F.layer_norm(hidden, weight.shape, weight, bias, EPSILON)
