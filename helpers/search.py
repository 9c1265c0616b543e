"""What makes it cheap: words, projections, queries of low rank, an index."""
import torch

from .capture import shape
from .curvature import Block, Curvature

WORD = r"(?u)\b\w+\b"
LEVELS = 7  # a code is a whole number from −7 to 7, kept in four bits
STEP = 0.45  # of a code, in root mean squares of the vector: what lies beyond 3.15 of them is cut
MOST_COORDINATES = 300_000


# -- by words ------------------------------------------------------------------------------------

def tfidf(texts: list[str]):
    """Function from queries to the cosines of their TF-IDF vectors with those of the texts.

    It returns `(Q, N)`, a numpy array. Sublinear term frequency, single words and pairs of words,
    no stop-word list. Raises ValueError for texts without words.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=WORD)
    stories = vectorizer.fit_transform(texts)

    def similarity(queries):
        return (vectorizer.transform(queries) @ stories.T).toarray()
    return similarity


def tfidf_scores(queries: list[str], texts: list[str]):
    """`tfidf` of the texts, asked once: the word-matching baseline, `(Q, N)`, a numpy array."""
    return tfidf(texts)(queries)


def candidates(queries: list[str], texts: list[str], count: int) -> list[int]:
    """Rows of the stories among the `count` best of at least one query, in corpus order."""
    best = (-tfidf_scores(queries, texts)).argsort(axis=1, kind="stable")[:, :count]
    return sorted(set(best.ravel().tolist()))


# -- by projections ------------------------------------------------------------------------------

def random_sides(layers: dict, width: int, seed=0) -> dict[str, tuple]:
    """For every layer two random matrices `(k, out)` and `(k, in+1)` (LoGra, Choe et al. 2024)."""
    draw = torch.Generator().manual_seed(seed)
    return {name: tuple(torch.randn(width, size, generator=draw) / width**0.5
                        for size in shape(layer)) for name, layer in layers.items()}


def projected(gradients: dict, sides: dict, scales: dict) -> torch.Tensor:
    """P_S (Dθ ∘ scale) P_Aᵀ of all layers in a row, `(batch, layers · k²)`.

    `scales` `{layer: (out, in+1)}` are an optimiser's 1/√v̂ (TrackStar, Chang et al. 2024).
    """
    rows = [(left @ (gradients[name] * scales[name]) @ right.T).flatten(1)
            for name, (left, right) in sides.items()]
    return torch.cat(rows, 1)


# -- queries of low rank -------------------------------------------------------------------------

def low_rank(ihvps: dict, rank: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The best approximation of rank r of every iHVP.

    `{layer: (U (Q, out, r), V (Q, r, in+1))}` with P ≈ U V, by singular values (Grosse et al.
    2023, section 3.2.2, where r = 32).
    """
    sides = {}
    for name, p in ihvps.items():
        u, values, v = torch.linalg.svd(p, full_matrices=False)
        sides[name] = (u[..., :rank] * values[..., None, :rank], v[..., :rank, :])
    return sides


def low_rank_token_scores(captured, sides: dict, n_train: int) -> torch.Tensor:
    """Influence of every token of a captured batch on every query, `(query, story, token)`.

    Σ_r (Uᵀ Ds_t)_r (V ā_t)_r, summed over layers: all queries in two matrix products a layer, and
    no `(out, in+1)` gradient is formed.
    """
    total = 0
    for name, (u, v) in sides.items():
        record = captured[name]
        left = torch.einsum("qor,bto->qbtr", u, record.output_grads)
        right = torch.einsum("qri,bti->qbtr", v, record.inputs)
        total = total + (left * right).sum(-1)
    return total / n_train


# -- an index ------------------------------------------------------------------------------------

def quantise(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Four bits a number: `(codes (n, ⌈K/2⌉) uint8, scales (n,))` of `(n, K)`.

    A number is scale × (code − 8); the first half of a vector lies in the lower four bits of the
    bytes, the second in the upper.
    """
    scales = STEP * vectors.norm(dim=1, keepdim=True) / vectors.shape[1] ** 0.5
    codes = vectors / scales.clamp(min=torch.finfo(vectors.dtype).tiny)
    codes = codes.round_().clamp_(-LEVELS, LEVELS).add_(8).to(torch.uint8)
    codes = torch.nn.functional.pad(codes, (0, codes.shape[1] % 2))
    low, high = codes.chunk(2, dim=1)
    return low | high << 4, scales[:, 0]


def products(codes: torch.Tensor, scales: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Dot products of quantised vectors with queries `(Q, K)`, `(Q, n)`, in float32."""
    numbers = torch.cat([codes & 15, codes >> 4], dim=1)[:, :queries.shape[1]].float() - 8
    return queries @ numbers.T * scales


class Index:
    """Training gradients, whitened and quantised: a new query costs a pass over bytes, not stories.

    A story's vector holds (Q_Sᵀ Dθ Q_A) / √(Λ+λ) of all layers at the K coordinates with the
    largest Λ/(Λ+λ); the product with a query's own vector is N times its influence.
    """

    def __init__(self, curvature: Curvature, coordinates=MOST_COORDINATES):
        """`curvature` is one of eigenvectors (K-FAC, EK-FAC)."""
        self.curvature = curvature
        weights = []
        for name, block in curvature.blocks.items():
            weights.append(block.eigenvalues / (block.eigenvalues + curvature.damping[name]))
        weight = torch.cat([part.flatten() for part in weights])
        self.total = len(weight)
        largest = weight.argsort(descending=True, stable=True)[:coordinates]
        self.coordinates = largest.sort().values
        self._bases, self._parts = {}, []

    def vectors(self, gradients: dict) -> torch.Tensor:
        """(Q_Sᵀ Dθ Q_A) / √(Λ+λ), `(batch, K)`, float32, of `{layer: (batch, out, in+1)}`."""
        return self._rotated(gradients, torch.mul)

    def queries(self, ihvps: dict) -> torch.Tensor:
        """(Q_Sᵀ P Q_A) · √(Λ+λ), `(Q, K)`, float32: what a story's vector is multiplied with."""
        return self._rotated(ihvps, torch.div)

    def _rotated(self, matrices, scaled):
        """All layers' kept coordinates in a row, `scaled` (multiplied or divided) by 1/√(Λ+λ)."""
        first, start = next(iter(matrices.values())), 0
        whole = torch.empty(len(first), self.total, device=first.device)
        for name, block in self.curvature.blocks.items():
            basis, width = self._basis(name, first.device), block.eigenvalues.numel()
            rotated = basis.rotate(matrices[name].float())
            scaled(rotated, basis.eigenvalues, out=whole[:, start:start + width].view_as(rotated))
            start += width
        if len(self.coordinates) == self.total:
            return whole
        return whole[:, self.coordinates.to(whole.device)]

    def _basis(self, name, device):
        """The block on the device, float32, with 1/√(Λ+λ) in the place of Λ; made once."""
        if (name, device) not in self._bases:
            block = self.curvature.blocks[name]
            scale = (block.eigenvalues + self.curvature.damping[name]).rsqrt()
            self._bases[name, device] = Block(block.q_a, block.q_s, scale).to(device, torch.float32)
        return self._bases[name, device]

    def add(self, gradients: dict) -> None:
        """Adds stories with these gradients `{layer: (batch, out, in+1)}` behind those it holds."""
        self._parts.append(quantise(self.vectors(gradients)))

    def scores(self, ihvps: dict, n_train: int) -> torch.Tensor:
        """Influence `(Q, n)` of the stories that were added, in their order, to four bits.

        With v a story's vector and P = M⁻¹ ∇L_q, N times the influence is Σ (Q_Sᵀ P Q_A) √(Λ+λ) v,
        whatever the curvature M: iHVPs of another one give that one's scores.
        """
        queries = self.queries(ihvps)
        return torch.cat([products(*part, queries) for part in self._parts], 1) / n_train

    def lengths(self, scales: torch.Tensor) -> torch.Tensor:
        """√(rᵀ(G+λI)⁻¹r) over the kept coordinates of vectors with these scales."""
        return scales * len(self.coordinates) ** 0.5 / STEP
