"""The learner's checks: each judges an answer against an oracle that shares no code with the solution.

A check prints one line: "not attempted yet" for a stub, ✓ with what was verified, or ✗ with the
likely misconception. It never raises, so Run All passes with stubs, half answers and solutions.
"""
import functools

import torch

from .classroom.checks.core import NotAttempted, Wrong


def check(judge):
    """Turns `judge(answer) -> what was verified` into a check that prints its verdict in one line."""
    @functools.wraps(judge)
    def verdict(answer):
        try:
            print(f"✓ {judge(answer)}")
        except NotAttempted:
            print("· not attempted yet")
        except Wrong as reason:
            print(f"✗ {reason}")
    return verdict


def call(answer, *arguments, **options):
    """The learner's function applied; its result as a tensor where it is a number.

    Raises NotAttempted for None or ..., Wrong when the function itself raises or its numbers fit no tensor.
    """
    try:
        value = answer(*arguments, **options)
    except Exception as problem:
        raise Wrong(f"your function raised {type(problem).__name__}: {problem}") from None
    if value is None or value is ...:
        raise NotAttempted
    try:
        return torch.as_tensor(value).detach() if isinstance(value, (float, int)) or hasattr(value, "__array__") else value
    except Exception:
        raise Wrong(f"your {type(value).__name__} does not turn into a tensor: return one; of an array with a negative stride, "
                    "take a copy() first") from None


def compare(value, truth, mistakes=None, tolerance=1e-4, what="your result"):
    """Raises Wrong unless `value` equals the oracle's `truth` to `tolerance`, relative to its largest entry.

    `mistakes` maps a message to the value that this misconception gives; the first that fits is told.
    """
    try:
        value, truth = torch.as_tensor(value).double(), torch.as_tensor(truth).double()
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"{what} is a {type(value).__name__} that holds no numbers: return a tensor") from None
    if value.shape != truth.shape:
        raise Wrong(f"{what} has shape {tuple(value.shape)}, expected {tuple(truth.shape)}")
    if not torch.isfinite(value).all():
        raise Wrong(f"{what} holds values that are not finite")
    if _equal(value, truth, tolerance):
        return
    for message, wrong in (mistakes or {}).items():
        wrong = torch.as_tensor(wrong).double()
        if wrong.shape == value.shape and _equal(value, wrong, tolerance):
            raise Wrong(message)
    error = ((value - truth).norm() / truth.norm().clamp(min=1e-300)).item()
    raise Wrong(f"{what} is off by {error:.0%} from the oracle, in a way this check does not know")


def _equal(one, other, tolerance):
    return (one - other).abs().max() <= tolerance * other.abs().max()


def _draws(seed):
    """A function of sizes that gives standard normal numbers, float64, from a stream of its own."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *size: torch.randn(*size, generator=generator, dtype=torch.float64)


# -- 01 influence functions -----------------------------------------------------------------------

def _linear_data(seed, count, width):
    """Correlated features of unequal size with a column of ones, and targets: X (count, width + 1), y (count,)."""
    draw = _draws(seed)
    X = torch.cat([draw(count, width) @ (draw(width, width) + 2 * torch.eye(width)), torch.ones(count, 1)], dim=1)
    return X, X @ draw(width + 1) + 0.7 * draw(count)


def _refit(X, y, weights, ridge=0.0):
    """Minimises (1/N) Σ w_i ½(x_iᵀθ − y_i)² + (ridge/2)‖θ‖², weights (..., N) → θ (..., p), by solving for it."""
    XtW = X.T * weights[..., None, :]
    return torch.linalg.solve(XtW @ X / len(X) + ridge * torch.eye(X.shape[1], dtype=X.dtype), XtW @ y / len(X))


def _refits_without(X, y):
    return _refit(X, y, 1 - torch.eye(len(X), dtype=X.dtype))


@check
def ridge_influence(answer):
    """`answer(X (N, p), y (N,), ridge, index) → dθ*/dε (p,)`, against finite differences of refits in ε."""
    X, y = _linear_data(seed=1, count=40, width=4)
    ridge, index, step = 0.6, 7, 1e-5
    value = call(answer, X, y, ridge, index)
    one = torch.ones_like(y)
    at = torch.eye(len(X), dtype=X.dtype)[index]
    moved = [_refit(X, y, one + len(X) * epsilon * at, ridge) for epsilon in (step, -step)]
    truth = (moved[0] - moved[1]) / (2 * step)
    theta, plain, bare = _refit(X, y, one, ridge), _refit(X, y, one), X.T @ X / len(X)
    H, x = bare + ridge * torch.eye(X.shape[1], dtype=X.dtype), X[index]
    summed = torch.linalg.solve(X.T @ X + ridge * torch.eye(len(x), dtype=X.dtype), X.T @ y)
    r, r_plain, r_summed = (x @ at - y[index] for at in (theta, plain, summed))
    compare(value, truth, {
        "the sign is turned: more weight on z moves θ against the gradient ∇L(z)": -truth,
        "N times too small: dθ*/dε has no factor 1/N, and H belongs to the mean loss, not the sum": truth / len(X),
        "H belongs to the mean loss: divide XᵀX (but not ρ) by N":
            -torch.linalg.solve(X.T @ X + ridge * torch.eye(len(x), dtype=X.dtype), r * x),
        "the ridge is missing from H: ρI belongs to the second derivative of J": -torch.linalg.solve(bare, r * x),
        "θ is the optimum without the ridge: solve for it with ρ": -torch.linalg.solve(H, r_plain * x),
        "θ is the optimum of the summed loss: divide XᵀX and Xᵀy (but not ρ) by N": -torch.linalg.solve(H, r_summed * x),
        "the ridge is missing everywhere: it belongs to θ* and to H": -torch.linalg.solve(bare, r_plain * x),
        "the ridge belongs to J, not to the example's own loss: ∇L(z) has no ρθ":
            -torch.linalg.solve(H, r * x + ridge * theta),
        "you multiplied by H where its inverse is needed": -H @ (r * x),
    }, tolerance=1e-5, what="dθ*/dε")
    return "dθ*/dε equals the finite difference of two refitted ridge regressions"


@check
def removal_effect(answer):
    """`answer(query_gradient (p,), H (p, p), gradients (N, p)) → (N,)` nats, against a refit without each example."""
    X, y = _linear_data(seed=2, count=500, width=3)
    x_q, y_q = torch.tensor([1.5, -1.0, 2.0, 1.0], dtype=torch.float64), 0.0
    theta = _refit(X, y, torch.ones_like(y))
    query_gradient, gradients, H = (x_q @ theta - y_q) * x_q, (X @ theta - y)[:, None] * X, X.T @ X / len(X)
    value = call(answer, query_gradient, H, gradients)
    loss = lambda at: 0.5 * (at @ x_q - y_q) ** 2
    truth = loss(_refits_without(X, y)) - loss(theta)
    multiplied = gradients @ (H @ query_gradient) / len(X)
    compare(value, truth, {
        "the sign is turned: that is the change when a copy is added": -truth,
        "N times too large: removing one of N examples is ε = −1/N": len(X) * truth,
        "N times too large, and the sign is turned: removing one of N examples is ε = −1/N": -len(X) * truth,
        "you multiplied by H where its inverse is needed (torch.linalg.solve(H, v) gives H⁻¹v)": multiplied,
        "you multiplied by H where its inverse is needed, and the sign is turned": -multiplied,
        "H is missing: this is the plain dot product of gradients": gradients @ query_gradient / len(X),
    }, tolerance=0.03, what="the change of L_q")
    return "the predicted changes are within 3% of 500 real refits, each without one example"


@check
def loo_residuals(answer):
    """`answer(X (N, p), y (N,)) → (N,)`, against a refit without each example."""
    X, y = _linear_data(seed=3, count=16, width=3)
    value = call(answer, X, y)
    truth = (_refits_without(X, y) * X).sum(1) - y
    r = X @ _refit(X, y, torch.ones_like(y)) - y
    h = (X * torch.linalg.solve(X.T @ X, X.T).T).sum(1)
    compare(value, truth, {
        "the sign is turned: the residual is prediction minus target": -truth,
        "these are the residuals of the fit that has seen the example: divide by 1 − h": r,
        "multiplied by 1 − h: a point left out has a larger residual, not a smaller one": r * (1 - h),
        "divided by 1 + h: that is the residual after one more copy": r / (1 + h),
        "this h is N times too large: the leverage uses XᵀX, the sum, not the mean H": r / (1 - len(X) * h),
        "this h is N times too small: N has been divided out twice": r / (1 - h / len(X)),
        "divided by (1 − h)²: one factor is enough": r / (1 - h) ** 2,
    }, tolerance=1e-6, what="the residual")
    return "one fit gives the same residuals as 16 refits, each without one point"


@check
def damped_solve(answer):
    """`answer(values (p,), vectors (p, p), v (p, k), damping) → (p, k)`, against a dense solve."""
    draw = _draws(4)
    root, v = draw(5, 5), draw(5, 5)
    matrix, damping = root @ root.T, 0.3
    values, Q = torch.linalg.eigh(matrix)
    value = call(answer, values, Q, v, damping)
    rotated, shifted = Q.T @ v, (values + damping)[:, None]
    mistakes = {
        "you multiplied by the eigenvalues where 1/(σ+λ) is needed": Q @ (shifted * rotated),
        "the damping is missing: divide by σ + λ": Q @ (rotated / values[:, None]),
        "λ is added after the division: it belongs under the fraction, 1/(σ+λ)":
            Q @ (rotated / values[:, None] + damping * rotated),
        "Q and Qᵀ are swapped: the eigenvectors are the columns, so Qᵀv comes first": Q.T @ ((Q @ v) / shifted),
        "still in the eigenbasis: multiply by Q at the end": rotated / shifted,
        "σ + λ ran along the wrong axis: divide the rows of Qᵀv by it, with (values + damping)[:, None]":
            Q @ (rotated / (values + damping)),
    }
    truth = torch.linalg.solve(matrix + damping * torch.eye(5, dtype=v.dtype), v)
    compare(value, truth, mistakes, tolerance=1e-8, what="(M + λI)⁻¹v")
    return "equal to the dense solve with M + λI"


# -- 02 capturing gradients with hooks ------------------------------------------------------------

def _draw(seed, *sizes):
    """Seeded normal tensors of the given sizes, float64."""
    draw = _draws(seed)
    return [draw(*size) for size in sizes]


def _name_shape(value, meanings):
    """Raises Wrong where `value` is no tensor, or its shape alone gives the mistake away (`meanings`: shape → message)."""
    if not isinstance(value, torch.Tensor):
        raise Wrong(f"return a tensor, not a {type(value).__name__}")
    if tuple(value.shape) in meanings:
        raise Wrong(meanings[tuple(value.shape)])


def _linear(seed, bias):
    layer = torch.nn.Linear(3, 4, bias=bias, dtype=torch.float64)
    for parameter, values in zip(layer.parameters(), _draw(seed, (4, 3), (4,))):
        parameter.data = values
    return layer


def _run_hooked(layer, hook, x, records):
    """Output of the layer with the learner's hook on it; Wrong when the hook fails, meddles or records nothing."""
    expected = layer(x)
    handle = layer.register_forward_hook(hook)
    try:
        output = layer(x)
    except Exception as problem:
        raise Wrong(f"your hook raised {type(problem).__name__}: {problem}") from None
    finally:
        handle.remove()
    if not isinstance(output, torch.Tensor) or output.shape != expected.shape or not torch.equal(output, expected):
        raise Wrong("what a forward hook returns replaces the layer's output: store, and return nothing")
    if not isinstance(records.get("layer"), torch.Tensor):
        raise Wrong("after the forward pass records[name] holds no tensor")
    return expected


@check
def make_hook(answer):
    """`answer(records, name) → hook`, against ∂s/∂[W b] by autograd."""
    for bias in (True, False):
        layer, records, (x,) = _linear(1, bias), {}, _draw(2, (2, 5, 3))
        x.requires_grad_()  # as everything inside a network does
        hook = call(answer, records, "layer")
        if not callable(hook):
            raise Wrong("return the hook itself, a function of (layer, args, output)")
        output, value = _run_hooked(layer, hook, x, records), records["layer"]
        _name_shape(value, {(2, 5, 3): "the 1 is missing: with a bias ā is one entry longer than a"} if bias else
                    {(2, 5, 4): "a layer without bias needs no 1: ask whether layer.bias is None"})
        first = [torch.autograd.grad(s[0], list(layer.parameters()), retain_graph=True) for s in output.flatten(0, 1)]
        truth = torch.stack([torch.cat([parts[0][0], *(part[:1] for part in parts[1:])]) for parts in first])
        one = torch.ones(2, 5, 1, dtype=x.dtype)
        compare(value.detach(), truth.view(2, 5, -1), {
            "that is the layer's output: what it reads stands in args[0]": output.detach(),
            "the 1 goes behind the inputs, as the last entry: [a; 1]": torch.cat([one, x.detach()], -1),
        } if bias else {"that is the layer's output: what it reads stands in args[0]": output.detach()},
            tolerance=1e-10, what="ā" if bias else "ā of a layer without bias")
        if value.requires_grad:
            raise Wrong("the values are right, but still tied to the graph, which then cannot be freed: detach them")
    return "equal to ∂s₀/∂[W b]₀ by autograd, with and without bias; the layer works as before"


def _token_problem():
    """One linear layer, softmax over its outputs at each of 6 positions, of which 6, 4 and 2 are real."""
    W, x = _draw(3, (4, 4), (3, 6, 3))
    inputs = torch.cat([x, torch.ones(3, 6, 1, dtype=x.dtype)], -1)
    mask = torch.arange(6) < torch.tensor([6, 4, 2])[:, None]
    labels = torch.arange(18).view(3, 6) % 4
    output_grads = (inputs @ W.T).softmax(-1) - torch.nn.functional.one_hot(labels, 4)
    return W, inputs, mask, labels, output_grads


@check
def story_gradients(answer):
    """`answer(inputs (B, T, in+1), output_grads (B, T, out), mask (B, T)) → (B, out, in+1)`, against autograd alone."""
    W, inputs, mask, labels, output_grads = _token_problem()
    value = call(answer, inputs.clone(), output_grads.clone(), mask)
    weight, truth = W.clone().requires_grad_(), []
    for a, y, real in zip(inputs, labels, mask):  # each sequence alone, without its padding
        loss = torch.nn.functional.cross_entropy(a[real] @ weight.T, y[real], reduction="sum")
        truth.append(torch.autograd.grad(loss, weight)[0])
    truth, masked, counts = torch.stack(truth), output_grads * mask[..., None], mask.sum(1)[:, None, None]
    _name_shape(value, {(4, 4): "the sequences are summed: keep the batch axis, one gradient for each",
                        (3, 6, 4, 4): "that is r_t, one matrix for each token: sum it over the real tokens"})
    everywhere = output_grads.transpose(1, 2) @ inputs
    compare(value, truth, {
        "padding is counted: set Ds to zero where the mask is False": everywhere,
        "divided by the number of real tokens: L(z) is a sum, and so is its gradient": truth / counts,
        "divided by the number of positions: L(z) is a sum, and so is its gradient": truth / 6,
        "transposed: the rows belong to the outputs, (batch, out, in+1)": truth.transpose(1, 2),
        "Ds and ā are each summed before they are multiplied: a token's Ds belongs to its own ā":
            masked.sum(1)[:, :, None] * (inputs * mask[..., None]).sum(1)[:, None, :],
        "Ds and ā are each summed before they are multiplied, padding included":
            output_grads.sum(1)[:, :, None] * inputs.sum(1)[:, None, :],
    }, tolerance=1e-8, what="Dθ")
    return "equal to autograd on each sequence alone, without its padding"


class _LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """Remembers the most numbers any tensor made inside the block has held in memory."""
    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numbers = max(self.numbers, result.untyped_storage().nbytes() // result.element_size())
        return result


@check
def token_scores(answer):
    """`answer(inputs (B, T, in+1), output_grads (B, T, out), P (out, in+1)) → (B, T)`, against finite differences."""
    W, P, x, mixing = _draw(5, (4, 4), (4, 4), (2, 6, 3), (6, 6))
    inputs = torch.cat([x, torch.ones(2, 6, 1, dtype=x.dtype)], -1)

    def loss(s):  # one number a sequence; each token's output matters to the later ones
        return torch.einsum("bto,ut->buo", s, mixing.tril()).tanh().logsumexp(-1).sum(-1)

    s = (inputs @ W.T).requires_grad_()
    output_grads = torch.autograd.grad(loss(s).sum(), s)[0]
    with _LargestTensor() as largest:
        value = call(answer, inputs.clone(), output_grads.clone(), P)
    pushed, eye, step = inputs @ P.T, torch.eye(6, dtype=x.dtype)[:, None, :, None], 1e-5
    up, down = ([loss(s.detach() + sign * at * pushed) for at in eye] for sign in (step, -step))
    truth = (torch.stack(up, 1) - torch.stack(down, 1)) / (2 * step)
    _name_shape(value, {(2,): "summed over the tokens: that is the sequence's score, keep one number a token",
                        (6,): "summed over the batch: keep one row a sequence",
                        (2, 6, 6): "every Ds_t met every ā_u: a token's Ds belongs to its own ā"})
    score = lambda Ds, P, a: torch.einsum("bto,oi,bti->bt", Ds, P, a)
    compare(value, truth, {
        "the inputs are summed over all positions before they meet Ds_t: only ā_t belongs to token t":
            score(output_grads, P, inputs.sum(1, keepdim=True).expand_as(inputs)),
        "the Ds are summed over all positions before they meet ā_t: only Ds_t belongs to token t":
            score(output_grads.sum(1, keepdim=True).expand_as(output_grads), P, inputs),
        "P is transposed: its rows belong to the outputs": score(output_grads, P.T, inputs),
        "P is missing: this is Ds_t · ā_t": (output_grads * inputs).sum(-1),
        "divided by the number of tokens: scores add up, they are not averaged": truth / 6,
        "averaged over in+1: the product of P and r_t is a sum": truth / 4,
        "the sign is turned": -truth,
    }, tolerance=1e-6, what="the tensor of scores")
    if largest.numbers >= 2 * 6 * 4 * 4:
        raise Wrong("the numbers are right, but a tensor of batch·token·out·in was made on the way: "
                    "multiply Ds by P first, then by ā")
    return "equal to finite differences, weights moved at one token only; r_t was never formed"


@check
def conv1d_gradient(answer):
    """`answer(a (B, T, in), output_grads (B, T, out)) → (B, in, out), (B, out)`, against autograd alone."""
    from transformers.pytorch_utils import Conv1D
    layer = Conv1D(5, 5).double()
    layer.weight.data, layer.bias.data, a, target = _draw(6, (5, 5), (5,), (3, 4, 5), (3, 4, 5))
    loss = lambda rows, goal: (layer(rows).sin() * goal).sum()
    output_grads = layer(a).detach().cos() * target
    value = call(answer, a, output_grads)
    if not (isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, torch.Tensor) for part in value)):
        raise Wrong("return two tensors: the gradients of weight (batch, in, out) and of bias (batch, out)")
    alone = [torch.autograd.grad(loss(*one), [layer.weight, layer.bias]) for one in zip(a, target)]
    weight, bias = (torch.stack(parts) for parts in zip(*alone))
    _name_shape(value[0], {(5, 5): "the sequences are summed: keep the batch axis, one gradient for each",
                           (3, 6, 5): "the 1 of ā has come along: the bias has a tensor of its own"})
    _name_shape(value[1], {(5,): "the sequences are summed in the bias: keep the batch axis",
                           (3, 4, 5): "the bias gradient is the sum of Ds_t over the tokens"})
    compare(value[0], weight, {
        "transposed: Conv1D keeps its weight as (in, out), so its rows belong to the inputs": weight.transpose(1, 2),
        "divided by the number of tokens: the gradient is a sum": weight / 4,
        "the sign is turned: return the gradient, not the step": -weight,
    }, tolerance=1e-8, what="the weight's gradient")
    compare(value[1], bias, {
        "the bias gradient is divided by the number of tokens: it is a sum": bias / 4,
        "the bias gradient is the sum of Ds_t, not of what the layer reads": a.sum(1),
        "the bias gradient is the sum of Ds_t over tokens: the 1 does not depend on them": torch.full_like(bias, 4),
    }, tolerance=1e-8, what="the bias's gradient")
    return "weight and bias equal autograd on each sequence alone, in Conv1D's own layout"


def _hooked_somewhere(seed):
    """A layer inside a small network; the tensors one might have captured around it, shuffled."""
    V, W, x, target, order = _draw(seed, (6, 6), (6, 6), (3, 4, 6), (3, 4, 6), (5,))
    W.requires_grad_()
    a = (x @ V.T).tanh().requires_grad_()
    s = a @ W.T
    h = s.tanh()
    at_input, Ds, after, weight = torch.autograd.grad((h.cumsum(1).sin() * target).sum(), [a, s, h, W])
    seen = {"Ds": Ds, "the gradient by the layer's *input* (grad_input)": at_input,
            "the gradient by what the activation writes, one module too late": after,
            "the layer's output itself, no gradient at all": s.detach(), "Ds of the *mean* loss": Ds / 12}
    names = [list(seen)[i] for i in order.argsort().tolist()]
    return a.detach(), [seen[name] for name in names], weight, names


@check
def find_output_grad(answer):
    """`answer(a, candidates, weight_grad) → index`, in networks where the tensors are known."""
    for seed in range(8):
        a, candidates, weight_grad, names = _hooked_somewhere(seed)
        value = call(answer, a, candidates, weight_grad)
        if not isinstance(value, (int, torch.Tensor)) or isinstance(value, torch.Tensor) and value.numel() != 1:
            raise Wrong("return one index into the list of candidates")
        if float(value) not in range(-5, 5):
            raise Wrong(f"{float(value):g} is no index into the list of five candidates")
        if (picked := names[int(value)]) != "Ds":
            raise Wrong(f"in network {seed + 1} of 8 you picked {picked}")
    return "Ds was found in eight networks, among five tensors of the same shape"

# -- 03 Hessian, K-FAC, EK-FAC --------------------------------------------------------------------

def _toy_outputs(seed=5, images=12, width=4, hidden=5, classes=3):
    """A small tanh network as a function θ → logits (images, classes), and a θ."""
    draw = _draws(seed)
    x, first = draw(images, width), hidden * (width + 1)
    def outputs(theta):
        W, V = theta[:first].view(hidden, width + 1), theta[first:].view(classes, hidden + 1)
        return torch.tanh(x @ W[:, :-1].T + W[:, -1]) @ V[:, :-1].T + V[:, -1]
    return outputs, 0.7 * draw(first + classes * (hidden + 1))


@check
def ggn_product(answer):
    """`answer(outputs, theta (P,), v (P,)) → Gv (P,)`, against autograd's Jacobian."""
    outputs, theta = _toy_outputs()
    v = torch.linspace(-1, 1, len(theta), dtype=theta.dtype).cos() * theta.flip(0)
    value = call(answer, outputs, theta, v)
    J, h = torch.autograd.functional.jacobian(outputs, theta), outputs(theta)
    p, moved = h.softmax(-1), J @ v
    bend = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    pull = lambda u: torch.einsum("nkp,nk->p", J, u) / len(h)
    truth = pull((bend @ moved[..., None])[..., 0])
    likely = lambda t: -outputs(t).log_softmax(-1).gather(1, p.argmax(1, keepdim=True)).mean()
    compare(value, truth, {
        "N times too large: G belongs to the mean loss": truth * len(h),
        "the bend is missing: this is JᵀJ v, the Gauss–Newton matrix of squared loss": pull(moved),
        "the part −p pᵀ is missing: this bends with diag p alone": pull(p * moved),
        "the sum over classes ran over images too: pᵀu is one number an image (sum(-1, keepdim=True))":
            pull(p * moved - p * (p * moved).sum()),
        "the sign of p pᵀ is turned: diag p minus p pᵀ": pull(p * moved + p * (p * moved).sum(-1, keepdim=True)),
        "logits where probabilities belong: take the softmax first": pull(h * moved - h * (h * moved).sum(-1, keepdim=True)),
        "this is a product with the Hessian of a loss, not with G: it differentiates J too":
            torch.autograd.functional.hvp(likely, theta, v)[1],
    }, tolerance=1e-8, what="G v")
    return "equal to Jᵀ(diag p − p pᵀ)J v with J from autograd, entry by entry"


@check
def exact_fisher(answer):
    """`answer(gradients (N, C, P), p (N, C), labels (N,)) → (P, P)`, against autograd's Hessian of the divergence."""
    outputs, theta = _toy_outputs(seed=6)
    p = outputs(theta).softmax(-1)
    labels = torch.arange(len(p)) % p.shape[1]
    each = lambda t: -outputs(t).log_softmax(-1)
    gradients = torch.autograd.functional.jacobian(each, theta)
    value = call(answer, gradients, p, labels)
    truth = torch.autograd.functional.hessian(lambda t: (p * each(t)).sum(-1).mean(), theta)  # the divergence's Hessian
    rows, mean = gradients[range(len(p)), labels], lambda q: torch.einsum("nc,ncp,ncq->pq", q, gradients, gradients) / len(p)
    average = torch.einsum("nc,ncp->np", p, gradients)
    compare(value, truth, {
        "these are the labels of the data: the empirical Fisher, a different matrix": rows.T @ rows / len(p),
        "every label weighs the same here: weigh it with p, as the model would draw it": mean(torch.ones_like(p) / p.shape[1]),
        "the labels are summed without the weights p": mean(torch.ones_like(p)),
        "only the most likely label is counted: the expectation is over all of them":
            mean(torch.nn.functional.one_hot(p.argmax(1), p.shape[1]).to(p)),
        "p is squared: it belongs to the outer product once, not to each gradient": mean(p ** 2),
        "averaged before the outer product: the mean gradient over the model's own labels is 0":
            average.T @ average / len(p),
        "N times too large: F is a mean over examples": truth * len(p),
        "a mean over labels too: the weights p already sum to 1": truth / p.shape[1],
    }, tolerance=1e-8, what="the Fisher matrix")
    return "equal to autograd's Hessian of the divergence from the model's own outputs"


@check
def kron_ihvp(answer):
    """`answer(A (n, n), S (m, m), V (m, n), damping) → (m, n)`, against a dense solve."""
    draw = _draws(7)
    root_a, root_s, V, damping = draw(5, 5), draw(3, 3), draw(3, 5), 0.3
    A, S = root_a @ root_a.T, root_s @ root_s.T
    value = call(answer, A, S, V, damping)
    (a, Q_A), (s, Q_S) = torch.linalg.eigh(A), torch.linalg.eigh(S)
    values, rotated = torch.outer(s, a), Q_S.T @ V @ Q_A
    eye = lambda matrix: torch.eye(len(matrix), dtype=matrix.dtype)
    both = lambda extra: torch.linalg.solve(S + extra * eye(S), V) @ torch.linalg.inv(A + extra * eye(A))
    dense = lambda matrix: torch.linalg.solve(matrix + damping * eye(matrix), V.flatten()).view_as(V)
    truth = dense(torch.kron(S, A))
    compare(value, truth, {
        "the damping is missing: this is S⁻¹ V A⁻¹": both(0.0),
        "λ was added to A and to S: then their product has λ² and cross terms; add it to λ_S λ_A": both(damping),
        "√λ was added to A and to S: that leaves cross terms; add λ to λ_S λ_A": both(damping ** 0.5),
        "you multiplied by λ_S λ_A + λ where its inverse is needed": Q_S @ (rotated * (values + damping)) @ Q_A.T,
        "still in the eigenbasis: go back with Q_S … Q_Aᵀ": rotated / (values + damping),
        "Q and Qᵀ are swapped: eigenvectors are columns, so Q_Sᵀ V Q_A goes into the basis":
            Q_S.T @ ((Q_S @ V @ Q_A.T) / (values + damping)) @ Q_A,
        "eigenvalues are added where they are multiplied: S ⊗ A has λ_S · λ_A":
            Q_S @ (rotated / (s[:, None] + a + damping)) @ Q_A.T,
        "the order is turned: rows of V belong to S, columns to A (this is A ⊗ S on V.flatten())": dense(torch.kron(A, S)),
    }, tolerance=1e-8, what="(S ⊗ A + λI)⁻¹ V")
    return "equal to the dense solve with the 15 × 15 matrix S ⊗ A + λI"


@check
def ekfac_eigenvalues(answer):
    """`answer(gradients (N, m, n), Q_A (n, n), Q_S (m, m)) → Λ (m, n)`, against the dense matrix."""
    draw = _draws(8)
    N, m, n = 30, 3, 4
    a, s = draw(N, 2, n) @ draw(n, n), draw(N, 2, m) @ draw(m, m) + 0.5
    gradients = s.transpose(1, 2) @ a  # two tokens a sequence
    A, S = (x.flatten(0, 1).T @ x.flatten(0, 1) / (2 * N) for x in (a, s))
    (values_a, Q_A), (values_s, Q_S) = torch.linalg.eigh(A), torch.linalg.eigh(S)
    value = call(answer, gradients, Q_A, Q_S)
    basis, rows = torch.kron(Q_S, Q_A), gradients.flatten(1)
    truth = torch.diag(basis.T @ (rows.T @ rows / N) @ basis).view(m, n)
    rotated = Q_S.T @ gradients @ Q_A
    compare(value, truth, {
        "averaged before squaring: Λ is a second moment, first square, then mean": rotated.mean(0) ** 2,
        "a sum over sequences where a mean belongs": truth * N,
        "the square is missing: this is the mean rotated gradient": rotated.mean(0),
        "the mean was taken away first: Λ is a second moment, not a variance": rotated.var(0, correction=0),
        "rotated the wrong way: eigenvectors are columns, so Q_Sᵀ Dθ Q_A":
            ((Q_S @ gradients @ Q_A.T) ** 2).mean(0),
        "Q_S is not transposed: Q_Sᵀ Dθ Q_A": ((Q_S @ gradients @ Q_A) ** 2).mean(0),
        "Q_A is transposed: Q_Sᵀ Dθ Q_A": ((Q_S.T @ gradients @ Q_A.T) ** 2).mean(0),
        "not rotated: this is the diagonal in the weights' own axes": (gradients ** 2).mean(0),
        "absolute values where squares belong": rotated.abs().mean(0),
    }, tolerance=1e-8, what="Λ")
    return "equal to the diagonal of (Q_S ⊗ Q_A)ᵀ F (Q_S ⊗ Q_A) with the dense F"


@check
def cg(answer):
    """`answer(matvec, v (P,), steps) → x (P,)`, against the best x of each Krylov space."""
    draw = _draws(9)
    root, v, steps = draw(8, 8), draw(8), 4
    M = root @ root.T / 8 + 0.2 * torch.eye(8, dtype=torch.float64)
    value = call(answer, lambda d: M @ d, v, steps)
    krylov = torch.linalg.qr(torch.stack([torch.linalg.matrix_power(M, k) @ v for k in range(8)], dim=1)).Q
    best = lambda k: krylov[:, :k] @ torch.linalg.solve(krylov[:, :k].T @ M @ krylov[:, :k], krylov[:, :k].T @ v)
    compare(value, best(steps), _cg_mistakes(M, v, steps) | {
        "one step too many": best(steps + 1), "one step too few": best(steps - 1),
        "this is the residual v − Mx: return x": v - M @ best(steps),
        "this is the full solution: take exactly `steps` steps": torch.linalg.solve(M, v),
    }, tolerance=1e-6, what="x")
    if not _equal(call(answer, lambda d: M @ d, v, 8), torch.linalg.solve(M, v), 1e-6):
        raise Wrong("right after 4 steps, but after 8 the 8 × 8 system should be solved")
    return "the best x of each Krylov space, and after 8 steps the dense solution of an 8 × 8 system"


def _cg_mistakes(M, v, steps):
    def run(beta, turn=1, stale=False):
        x, r, d = torch.zeros_like(v), v, v
        for _ in range(steps):
            alpha = (r @ r) / (d @ M @ d)
            x, new = x + alpha * d, r - turn * alpha * (M @ d)
            d, r = (r if stale else new) + beta(new, r) * d, new
        return x
    square = lambda new, old: (new @ new) / (old @ old)
    return {
        "every direction is the bare residual: this is steepest descent, β is missing": run(lambda new, old: 0.0),
        "β is upside down: new over old": run(lambda new, old: 1 / square(new, old)),
        "β = 1 all along: `old` was taken after r had changed": run(lambda new, old: 1.0),
        "β lacks a square: r·r over r·r, not |r| over |r|": run(lambda new, old: square(new, old) ** 0.5),
        "the residual moves the wrong way: r − αMd": run(square, turn=-1),
        "the new direction starts from the old residual: update r first": run(square, stale=True),
    }

# -- 04 tokenwise attribution ---------------------------------------------------------------------

@check
def completion_labels(answer):
    """`answer(ids, start) → labels (T,)`, against log p(prompt and completion) − log p(prompt)."""
    ids, start = [3, 1, 4, 1, 5, 2, 6], 4
    log_p = _draws(5)(len(ids), 8).log_softmax(-1)  # of a model, by position
    value = call(answer, ids, start)
    if not isinstance(value, torch.Tensor) or value.shape != (len(ids),):
        raise Wrong(f"return a tensor of {len(ids)} labels, one a position")
    if value.dtype != torch.long:
        raise Wrong("labels must be whole numbers: give them dtype torch.long, as the loss takes no other")
    if not ((value == -100) | (value >= 0) & (value < log_p.shape[1])).all():
        raise Wrong("a label is a token id, or −100 where there is no target")
    def measured(labels):
        return sum(log_p[t, label] for t, label in enumerate(labels) if label != -100)
    def sequence(end):  # log p(x_1 … x_end | x_1)
        return sum(log_p[t, ids[t + 1]] for t in range(end - 1))
    compare(measured(value.tolist()), sequence(len(ids)) - sequence(start), {
        "the labels are not shifted: position t predicts x_{t+1}": sum(log_p[t, ids[t]] for t in range(start, len(ids))),
        "the completion's first token is missing: it is predicted at position start − 1": sequence(len(ids)) - sequence(start + 1),
        "the prompt is asked about too: mask what predicts the prompt's own tokens": sequence(len(ids)),
        "one position too many: the prompt's last token is given, not asked": sequence(len(ids)) - sequence(start - 1),
        "the completion's last token is missing: the slice ended too early": sequence(len(ids) - 1) - sequence(start),
    }, tolerance=1e-9, what="Σ log p at your labels")
    return "Σ log p at your labels is log p(prompt and completion) − log p(prompt)"


@check
def token_influence(answer):
    """`answer(inputs (T, in+1), output_grads (T, out), P (out, in+1), n_train) → (T,)` nats, against autograd by token."""
    draw = _draws(6)
    inputs, W, P, mix = draw(6, 4), draw(3, 4), draw(3, 4), draw(6, 6)
    inputs[:, -1] = 1
    copies = W.expand(6, 3, 4).clone().requires_grad_()  # the same weights, but every token has its own
    written = torch.einsum("toi,ti->to", copies, inputs)
    written.retain_grad()
    (mix.tril() @ written).tanh().sum().backward()  # later tokens read earlier ones
    Ds, N = written.grad, 50
    truth = (copies.grad * P).sum((1, 2)) / N
    value = call(answer, inputs, Ds, P, N)
    compare(value, truth, {
        "the activations were summed over all tokens: Ds_t belongs with ā_t of the same token": Ds @ P @ inputs.sum(0) / N,
        "the output gradients were summed over all tokens: Ds_t belongs with ā_t of the same token": Ds.sum(0) @ P @ inputs.T / N,
        "the factor 1/N is missing: one copy is ε = 1/N": N * truth,
        "the sign is turned: ∇L_q = −∇f has brought its minus already": -truth,
        "this is each token's gradient norm: the query (P) is missing": (copies.grad ** 2).sum((1, 2)).sqrt() / N,
        "the last column was left out: ā carries a 1 for the bias": (copies.grad * P)[..., :-1].sum((1, 2)) / N,
    }, tolerance=1e-9, what="the influence by token")
    return "equal to autograd with a copy of the weights for every token"


@check
def on_predicted(answer):
    """`answer(values (T,)) → (T,)`, against a list of words read and told."""
    values = torch.tensor([0.1, -0.4, 2.0, 0.3, -0.2], dtype=torch.float64)
    read, told = "Tom hid in the barn".split(), {}
    for before, after, value in zip(read, read[1:], values):  # what was read, what it was to predict
        told[after] = value
    truth = torch.stack([told.get(word, torch.zeros_like(values[0])) for word in read])
    compare(call(answer, values), truth, {
        "nothing was moved: this is still align=\"input\"": values,
        "moved to the left: a value goes from the token read to the one that follows": torch.cat([values[1:], values[:1] * 0]),
        "moved to the left, and around": values.roll(-1),
        "the last value came round to the first token, which nothing predicts: put 0 there": values.roll(1),
    }, tolerance=1e-12, what="the moved profile")
    return "every value stands on the token it taught, and the first token has none"


@check
def relatif(answer):
    """`answer(scores (B,), gradients (B, out, in+1), Q_A, Q_S, Lambda, damping) → (B,)`, against a dense solve."""
    draw = _draws(7)
    Q_A, Q_S = (torch.linalg.qr(draw(width, width))[0] for width in (4, 3))
    Lambda, damping, gradients, scores = draw(3, 4) ** 2, 0.2, draw(5, 3, 4), draw(5)
    basis = torch.kron(Q_S, Q_A)
    G = basis @ torch.diag(Lambda.flatten()) @ basis.T + damping * torch.eye(12, dtype=torch.float64)
    flat = gradients.flatten(1)
    ihvps = torch.linalg.solve(G, flat.T).T
    squares = (flat * ihvps).sum(1)
    value = call(answer, scores, gradients, Q_A, Q_S, Lambda, damping)
    swapped = ((Q_S @ gradients @ Q_A.T) ** 2 / (Lambda + damping)).sum((1, 2))
    compare(value, scores / squares.sqrt(), {
        "the square root is missing: divide by √(rᵀ(G+λI)⁻¹r)": scores / squares,
        "divided by the gradient's plain length, as the cosine does: the curvature is missing": scores / flat.norm(dim=1),
        "divided by the length of the iHVP, which asks for the change of the weights, not of the loss": scores / ihvps.norm(dim=1),
        "you multiplied by Λ + λ where its inverse is needed": scores / ((flat @ G) * flat).sum(1).sqrt(),
        "multiplied where it should be divided: a story that moves everything must lose rank": scores * squares.sqrt(),
        "into the eigenbasis it is Q_Sᵀ r Q_A: the eigenvectors stand in columns": scores / swapped.sqrt(),
        "the damping is missing: divide by Λ + λ": scores / ((Q_S.T @ gradients @ Q_A) ** 2 / Lambda).sum((1, 2)).sqrt(),
    }, tolerance=1e-8, what="the normalised score")
    return "equal to the dense computation with (G+λI)⁻¹"


# -- 05 the flat attribution bug ------------------------------------------------------------------

def _toy_story(seed, length, W):
    """ā, Ds and r_t of a layer W whose positions are mixed behind it, r_t by autograd with a copy of W for every token."""
    draw = _draws(seed)
    a = torch.cat([draw(length, W.shape[1] - 1), torch.ones(length, 1, dtype=W.dtype)], 1)
    copies = W.expand(length, -1, -1).clone().requires_grad_()
    s = torch.einsum("toi,ti->to", copies, a)
    mixed = torch.tril(torch.rand(length, length, generator=torch.Generator().manual_seed(seed), dtype=W.dtype)) @ s.tanh()
    loss = torch.nn.functional.cross_entropy(mixed, torch.arange(length) % len(W), reduction="sum")
    parts, output_grads = torch.autograd.grad(loss, (copies, s))
    return a, output_grads.detach(), parts


def _clinic():
    """One layer, a query, two stories: the pieces a pipeline gets, r_t of each sequence, and G as a matrix."""
    draw = _draws(5)
    W, roots = draw(3, 5), (draw(5, 5), draw(3, 3))
    A, S = (root @ root.T for root in roots)
    (values_a, Q_A), (values_s, Q_S) = map(torch.linalg.eigh, (A, S))
    sequences = {name: _toy_story(seed, length, W) for name, (seed, length) in {"query": (11, 4), "story": (12, 6)}.items()}
    return sequences, (Q_A, Q_S, torch.outer(values_s, values_a), 0.3, 50), torch.kron(S, A)


def _symptoms(answer, sequences, factors, G):
    """What is wrong with a pipeline, each found by running it: a list of findings, empty where it is healthy."""
    (*query, r_q), (a, s, r), (*_, damping, n_train) = sequences["query"], sequences["story"], factors
    damped = G + damping * torch.eye(len(G), dtype=G.dtype)
    ihvp = torch.linalg.solve(damped, r_q.sum(0).flatten()).view(r_q.shape[1:])
    run = lambda a, s: torch.as_tensor(call(answer, tuple(query), (a, s), *factors)).double()
    value, found = run(a, s), []
    off = abs(value.sum() / ((ihvp * r).sum() / n_train) - 1)
    if off > 1e-6:
        found.append(f"the sum over tokens is off by {off:.0%} from qᵀ(G+λI)⁻¹r by a dense solve")
    for what, changed in (("ā", (_doubled(a), s)), ("Ds", (a, _doubled(s)))):
        moved = (run(*changed) - value).abs() > 1e-9 * value.abs().max()
        if not moved[2]:
            found.append(f"doubling {what} of token 2 of the story leaves value 2 as it was")
        if moved.sum() > moved[2]:
            found.append(f"doubling {what} of token 2 of the story moves {moved.sum() - moved[2].long()} other values")
    units = [(i, j) for i in range(ihvp.shape[0]) for j in range(ihvp.shape[1])]
    one = lambda size, at: torch.eye(size, dtype=a.dtype)[at:at + 1]
    read = torch.stack([run(one(ihvp.shape[1], j), one(ihvp.shape[0], i)).sum() for i, j in units]) * n_train
    gap = (damped @ read - r_q.sum(0).flatten()).norm() / r_q.sum(0).norm()
    if gap > 1e-6:
        found.append(f"one-token stories read out your iHVP: (G+λI) times it misses the query's gradient by {gap:.0%}")
    return found


def _doubled(rows, at=2):
    return torch.cat([rows[:at], 2 * rows[at:at + 1], rows[at + 1:]])


@check
def mend_a(answer):
    """`answer(query (ā, Ds), story (ā, Ds), Q_A, Q_S, Lambda, damping, n_train) → (T,)`, against autograd by token and a
    dense solve."""
    sequences, factors, G = _clinic()
    (*query, r_q), (a, s, r), (*_, damping, n_train) = sequences["query"], sequences["story"], factors
    value = call(answer, tuple(query), (a, s), *factors)
    flat = torch.linalg.solve(G + damping * torch.eye(len(G), dtype=G.dtype), r_q.sum(0).flatten())
    truth = r.flatten(1) @ flat / n_train
    if isinstance(value, torch.Tensor) and value.shape == (len(query[0]),):
        raise Wrong(f"{len(value)} values for a story of {len(a)} tokens; the query has {len(query[0])}")
    try:
        compare(value, truth, {}, tolerance=1e-6, what="the tensor of token influences")
    except Wrong as reason:
        plain = isinstance(value, torch.Tensor) and value.shape == truth.shape and torch.isfinite(value).all()
        raise Wrong("; ".join(_symptoms(answer, sequences, factors, G)) or str(reason)) if plain else reason from None
    return "every value equals autograd with a copy of the weights for each token, and a dense solve with G+λI"


mend_b = mend_c = mend_a  # whoever the patient was, what counts is what the mended pipeline does


@check
def moves_alone(answer):
    """`answer(split, inputs (T, in+1), output_grads (T, out)) → bool`, tried on one right split and five wrong ones."""
    draw = _draws(8)
    a, s, P, a_q, s_q = draw(6, 4), draw(6, 3), draw(3, 4), draw(6, 4), draw(6, 3)
    right = lambda a, s: torch.einsum("to,oi,ti->t", s, P, a)
    summed = lambda a, s: (s @ P) @ a.sum(0)
    wrong = {
        "one that does not look at the story at all": lambda a, s: right(a_q, s_q),
        "one that splits the query by token and only scales with the story": lambda a, s: ((s_q @ (s.T @ a)) * a_q).sum(1),
        "one that sums ā over all tokens": summed,
        "one that sums Ds over all tokens": lambda a, s: a @ (P.T @ s.sum(0)),
        "one that sums ā over all tokens and rescales, so that the total is right":
            lambda a, s: summed(a, s) * right(a, s).sum() / summed(a, s).sum(),
    }
    verdicts = {name: call(answer, split, a.clone(), s.clone()) for name, split in {"": right, **wrong}.items()}
    for value in verdicts.values():
        if not (isinstance(value, bool) or isinstance(value, torch.Tensor) and value.dtype == torch.bool and value.numel() == 1):
            raise Wrong(f"return True or False, not a {type(value).__name__}")
    if not verdicts.pop(""):
        raise Wrong("your test turns down the right split")
    if passed := [name for name, value in verdicts.items() if value]:
        raise Wrong(f"your test lets {len(passed)} of 5 wrong splits pass: {'; '.join(passed)}")
    return "accepts the right split and turns down five wrong ones"


# -- 06 does it work? -----------------------------------------------------------------------------

def _rank_correlation(one, other):
    """Spearman's correlation of two vectors, by scipy."""
    from scipy.stats import spearmanr
    return float(spearmanr(one.numpy(), other.numpy())[0])


def _by_column(one, other, correlate=_rank_correlation):
    """The correlation over the rows for each column, and then its mean: (S, Q), (S, Q) → a number."""
    values = [correlate(one[:, q], other[:, q]) for q in range(one.shape[1])]
    return sum(values) / len(values)


def _pearson(one, other):
    return torch.corrcoef(torch.stack([one.double(), other.double()]))[0, 1].item()


@check
def lds(answer):
    """`answer(scores (Q, N), kept (S, N), actual (S, Q)) → scalar`, against scipy on sums made story by story."""
    draw = _draws(61)
    scores, kept = draw(4, 12).exp() - 0.8, draw(20, 12) > 0
    predicted = torch.tensor([[sum(score for score, stays in zip(scores[q].tolist(), subset) if stays) for q in range(4)]
                              for subset in kept.tolist()])
    actual = (((predicted + 2.5 * draw(20, 4)) / 3).exp() + torch.tensor([0.0, 4.0, 2.0, 9.0])).float()
    value = call(answer, scores.float(), kept.clone(), actual.clone())
    truth = _by_column(predicted, actual)
    compare(value, truth, {
        "the sign is turned: sum the scores of the stories that are kept, not of those left out": -truth,
        "that is Pearson's correlation: put ranks in place of the values": _by_column(predicted, actual, _pearson),
        "ranked over all queries at once: rank the subsets of one query, correlate, and average the queries then":
            _rank_correlation(predicted.flatten(), actual.flatten()),
        "correlated over the queries of each subset: correlate over the subsets, query by query":
            _by_column(predicted.T, actual.T),
        "argsort is not a rank: it says who stands first, second, …; its own argsort says which place each one has":
            _by_column(predicted.argsort(0), actual.argsort(0), _pearson),
        "the queries were averaged before ranking: correlate for each, and average the correlations":
            _rank_correlation(predicted.mean(1), actual.mean(1)),
        "the prediction is the sum over the kept stories, not their mean":
            _by_column(predicted / kept.sum(1, keepdim=True), actual),
    }, tolerance=1e-5, what="the LDS")
    return "equal to scipy's Spearman correlation over 20 subsets, averaged over 4 queries"


@check
def drop_tokens(answer):
    """`answer(values (N, T), mask (N, T), k) → weights (N, T)`, against a sorted list of all loss terms."""
    stories = [[-0.60, -0.50, 1.90, -0.30, 0.80, -0.70, 5.00], [-0.40, -1.20, -3.00, -0.90, 4.00],
               [-0.80, -0.10, -0.20, -1.10, -1.30, 6.00], [-0.25, -0.35, -0.45, 3.00]]
    k, lengths, longest = 3, list(map(len, stories)), 7
    values = torch.tensor([story + [9.0 - at for at in range(longest - len(story))] for story in stories])
    mask = torch.tensor([[t < length for t in range(longest)] for length in lengths])
    terms = [(stories[i][t], i, t) for i, length in enumerate(lengths) for t in range(length - 1)]

    def dropped(chosen, shift=0):
        weights = torch.ones(len(stories), longest)
        for _, i, t in chosen:
            weights[i, t + shift] = 0
        return weights

    value = call(answer, values.clone(), mask.clone(), k)
    best, target = sorted(terms)[-k:], dropped(terms) == 0
    truth = dropped(best)
    if isinstance(value, torch.Tensor) and value.shape == truth.shape and (value == 0).sum() == k:
        if ((value == 0) & ~mask).any():
            raise Wrong("padding was chosen: keep it out with −inf, because a 0 there still beats a negative influence")
        if ((value == 0) & ~target).any():
            raise Wrong("a story's last token was chosen: nothing follows it, so there is no loss term to leave out")
    in_each = [term for i in range(len(stories)) for term in sorted(term for term in terms if term[1] == i)[-k:]]
    compare(value, truth, {
        "those are the k largest of each story: the k largest of the whole corpus may all stand in one": dropped(in_each),
        "shifted by one to the right: the term read at t, which predicts x_{t+1}, has its weight at t": dropped(best, 1),
        "shifted by one to the left: the term read at t, which predicts x_{t+1}, has its weight at t": dropped(best, -1),
        "largest by magnitude: a large negative influence speaks against the query":
            dropped(sorted(terms, key=lambda term: abs(term[0]))[-k:]),
        "the k smallest: largest means most positive": dropped(sorted(terms)[:k]),
        "0 and 1 are exchanged: a weight of 0 leaves the term out": 1 - truth,
        "0 at the positions without a target too: 1 everywhere but at the k terms": truth * target,
    }, tolerance=1e-6, what="the tensor of weights")
    return "0 at the 3 largest of 18 loss terms, 1 everywhere else; no padding, no story's last token"


def _descend(X, y, weights, rate, steps):
    """All θ of gradient descent from 0 on Σ_i w_i ½(x_iᵀθ − y_i)²/N: weights (..., N) → steps + 1 of (..., d)."""
    path = [torch.zeros(*weights.shape[:-1], X.shape[1], dtype=X.dtype)]
    for _ in range(steps):
        path.append(path[-1] - rate * (weights * (path[-1] @ X.T - y)) @ X / len(X))
    return path


def _reverse_mistakes(X, r, x_q, rate):
    """{what was done: the derivative that it gives} for passes back through the steps with residuals r (steps + 1, N)."""
    steps, H, one = len(r) - 1, X.T @ X / len(X), torch.eye(X.shape[1], dtype=X.dtype)

    def adjoints(step):  # rows 0 … steps: x_iᵀ u_k, where u_k = step^(steps − k) x_q
        return torch.stack([X @ torch.linalg.matrix_power(step, steps - k) @ x_q for k in range(steps + 1)])

    u = adjoints(one - rate * H)
    products = {
        "the adjoint is constant, which is TracIn: what a step changes is changed again by every later step": r[:-1] * u[-1],
        "the residual is that of θ_{k+1}: a step takes its gradient at θ_k, before it moves": r[1:] * u[1:],
        "each step has its own residual: you used those of the trained θ throughout": r[-1] * u[1:],
        "the adjoint is one step ahead: use u_{k+1} for the weights first, then turn it into u_k": r[:-1] * u[:-1],
        "the adjoint meets the steps in the wrong order: u_K = x_q belongs to the last step": r[:-1] * u[1:].flip(0),
        "1/N is missing in the adjoint's step: u_k = (I − ηXᵀX/N) u_{k+1}": r[:-1] * adjoints(one - rate * len(X) * H)[1:],
        "η is missing in the adjoint's step: u_k = (I − ηXᵀX/N) u_{k+1}": r[:-1] * adjoints(one - H)[1:],
        "only the last step was counted: the weights act in every step": r[-2:-1] * u[-1],
    }
    return {message: -rate / len(X) * product.sum(0) for message, product in products.items()}


@check
def through_training(answer):
    """`answer(X (N, d), y (N,), rate, steps, x_q (d,)) → (N,)`, against finite differences of retraining."""
    X, y = _linear_data(seed=63, count=7, width=2)
    X, rate, steps, small = X / 3, 0.4, 6, 1e-5
    x_q, eye = torch.tensor([1.0, -2.0, 1.5], dtype=X.dtype), torch.eye(7, dtype=X.dtype)
    value = call(answer, X.clone(), y.clone(), rate, steps, x_q.clone())
    more, less = (_descend(X, y, 1 + sign * small * eye, rate, steps)[-1] @ x_q for sign in (1, -1))
    truth, N, H = (more - less) / (2 * small), len(X), X.T @ X / len(X)
    r = torch.stack(_descend(X, y, torch.ones_like(y), rate, steps)) @ X.T - y  # residuals, (steps + 1, N)
    final = X @ torch.linalg.solve(H, X.T @ y / N) - y
    compare(value, truth, {
        "the sign is turned: a step goes against the gradient": -truth,
        "N times too large: 1/N is missing, the loss is a mean": N * truth,
        "N times too large and the sign is turned: a step goes against the gradient of a mean": -N * truth,
        "the learning rate is missing: a step is −η times the gradient": truth / rate,
        **_reverse_mistakes(X, r, x_q, rate),
        "that is the influence function, the limit of endless training: after these steps θ is not there yet":
            -final * (X @ torch.linalg.solve(H, x_q)) / N,
        "that is the influence function at the θ reached: H⁻¹ is right only in the limit of endless training":
            -r[-1] * (X @ torch.linalg.solve(H, x_q)) / N,
    }, tolerance=1e-6, what="the derivative")
    return "equal to finite differences of 14 trainings, two for each weight"


def _ceiling(one, other, correlate=_rank_correlation):
    """√(2r/(1 + r)) of two halves (S, Q), by scipy."""
    r = _by_column(one, other, correlate)
    return (2 * r / (1 + r)) ** 0.5


@check
def noise_ceiling(answer):
    """`answer(actual (S, seeds, Q)) → scalar`, against scipy on means taken seed by seed."""
    draw, subsets, seeds, queries = _draws(74), 24, 6, 3
    effects = draw(subsets, 1, queries) * torch.tensor([1.0, 0.6, 1.6]) + torch.tensor([0.0, 3.0, -2.0])
    actual = (effects + draw(subsets, seeds, queries).exp()).float()
    value = call(answer, actual.clone())
    one, other = (sum(actual[:, seed] for seed in part) / 3 for part in (range(3), range(3, 6)))
    r, truth = _by_column(one, other), _ceiling(one, other)
    each = [_ceiling(one[:, q:q + 1], other[:, q:q + 1]) for q in range(queries)]
    compare(value, truth, {
        "that is r itself: it needs Spearman–Brown, 2r/(1 + r), and then the square root": r,
        "Spearman–Brown is missing: √r is for half the seeds, the mean of all is more reliable: 2r/(1 + r)": r ** 0.5,
        "the square root is missing: a reliability compares two noisy means, but the best prediction has no noise":
            2 * r / (1 + r),
        "the square root comes last: first r, then 2r/(1 + r), then the root": 2 * r ** 0.5 / (1 + r ** 0.5),
        "correlated over the queries of each subset: correlate over the subsets, query by query": _ceiling(one.T, other.T),
        "the subsets were halved, and no subset stands in both halves: halve the seeds":
            _ceiling(actual[:subsets // 2].mean(1), actual[subsets // 2:].mean(1)),
        "first average r over the queries, then Spearman–Brown and the root": sum(each) / queries,
        "seeds were taken in turns: the first half of them against the second":
            _ceiling(actual[:, ::2].mean(1), actual[:, 1::2].mean(1)),
        "one seed against another: average each half of the seeds first": _ceiling(actual[:, 0], actual[:, 1]),
        "the queries were averaged before ranking: correlate for each, and average the correlations":
            _ceiling(one.mean(1, keepdim=True), other.mean(1, keepdim=True)),
        "that is Pearson's correlation: put ranks in place of the values":
            _ceiling(one, other, _pearson),
    }, tolerance=1e-5, what="the ceiling")
    return "equal to scipy's Spearman of two halves, Spearman–Brown and the square root, over 24 subsets"


# -- 07 scaling up --------------------------------------------------------------------------------

def _counted(work):
    """Multiply-adds of matrix products as PyTorch counts them while they really run."""
    from torch.utils.flop_counter import FlopCounterMode
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() // 2


@check
def multiplications(answer):
    """`answer(out, width, tokens, queries, rank) → (3,)`, against PyTorch's counter over products that really run."""
    out, width, tokens, queries, rank = 6, 11, 5, 3, 2
    value = call(answer, out, width, tokens, queries, rank)
    Ds, a, P, U, V = torch.ones(tokens, out), torch.ones(tokens, width), torch.ones(queries, out, width), \
        torch.ones(queries, out, rank), torch.ones(queries, rank, width)

    def dots(left, right):  # as (1, k) @ (k, 1) products, which the counter sees
        return left.reshape(-1, 1, left.shape[-1]) @ right.expand_as(left).reshape(-1, left.shape[-1], 1)

    forming, product = _counted(lambda: Ds.T @ a), _counted(lambda: P.flatten(1) @ (Ds.T @ a).flatten()[:, None])
    product -= forming
    moved, ends = _counted(lambda: Ds @ P), _counted(lambda: dots(Ds @ P, a)) - _counted(lambda: Ds @ P)
    sides = _counted(lambda: (Ds @ U, a @ V.transpose(1, 2)))
    meeting = _counted(lambda: dots(Ds @ U, a @ V.transpose(1, 2))) - sides
    truth = torch.tensor([forming + product, moved + ends, sides + meeting])
    compare(value, truth, {
        "the gradient is formed once for all queries: only the products with P are made for each":
            torch.tensor([queries * (forming + product // queries), moved + ends, sides + meeting]),
        "the gradient has to be formed too: out · tokens · in+1, once": torch.tensor([product, moved + ends, sides + meeting]),
        "the last step is missing: a dot product for every token and query": torch.tensor([forming + product, moved, sides]),
        "in the second and third way everything is done for every query":
            torch.tensor([forming + product, (moved + ends) // queries, (sides + meeting) // queries]),
        "U and V are applied to every token: the third way lacks the factor tokens":
            torch.tensor([forming + product, moved + ends, queries * rank * (out + width + 1)]),
        "counted multiplications and additions: one multiply-add counts once": 2 * truth,
    }, tolerance=1e-9, what="the tensor of counts")
    return "equal to PyTorch's own count over the products as they run"


@check
def recall(answer):
    """`answer(exact (Q, N), approximate (Q, N), k, m) → scalar`, against sets of places, query by query."""
    draw, queries, count, k, m = _draws(72), 5, 60, 8, 19
    exact = draw(queries, count)
    approximate = exact + 1.5 * draw(queries, count)
    value = call(answer, exact.clone(), approximate.clone(), k, m)

    def best(row, count, key=float):
        return set(sorted(range(len(row)), key=lambda i: -key(row[i]))[:count])

    def share(one, other, k, m, by, key=float):
        hits = [len(best(a, k, key) & best(b, m, key)) for a, b in zip(one.tolist(), other.tolist())]
        return sum(hits) / (by * len(hits))

    pooled = len(best(exact.flatten().tolist(), k) & best(approximate.flatten().tolist(), m)) / k
    compare(value, share(exact, approximate, k, m, k), {
        "that is precision: the share of the m candidates that are good; recall divides by k": share(exact, approximate, k, m, m),
        "exact and approximate are exchanged": share(approximate, exact, k, m, k),
        "the m best of the exact scores were sought among the k best of the approximate": share(approximate, exact, k, m, m),
        "by magnitude: largest means most positive": share(exact, approximate, k, m, k, abs),
        "the smallest, not the largest": share(-exact, -approximate, k, m, k),
        "both lists were cut at k: the approximate one may propose m": share(exact, approximate, k, k, k),
        "all queries were thrown together: choose for each query its own": pooled,
        "that is a sum over the queries: take the mean": queries * share(exact, approximate, k, m, k),
    }, tolerance=1e-6, what="the recall")
    return "equal to counting with sets, query by query"


@check
def whiten(answer):
    """`answer(gradients (B, out, in+1), q_s, q_a, Λ, λ, k) → (B, k)`: dot products against dense solves."""
    draw, out, width, rows, damping = _draws(72), 3, 4, 5, 0.3
    q_s, q_a = (torch.linalg.qr(draw(n, n))[0] for n in (out, width))
    eigenvalues, gradients = draw(out, width).exp(), draw(rows, out, width)
    basis, flat = torch.kron(q_s, q_a), gradients.flatten(1)

    def dense(coordinates, values=eigenvalues, damping=damping):  # G in these directions only, solved
        part = basis[:, coordinates]
        G = part.T @ (basis * values.flatten()) @ basis.T @ part
        reached = flat @ part
        return reached @ torch.linalg.solve(G + damping * torch.eye(len(coordinates), dtype=G.dtype), reached.T)

    order = sorted(range(out * width), key=lambda i: -eigenvalues.flatten()[i])
    whole, k = list(range(out * width)), 7
    arguments = q_s.clone(), q_a.clone(), eigenvalues.clone(), damping
    value, cut = (call(answer, gradients.clone(), *arguments, count) for count in (out * width, k))
    for vectors, count in ((value, out * width), (cut, k)):
        if not isinstance(vectors, torch.Tensor) or vectors.shape != (rows, count):
            shape = tuple(vectors.shape) if isinstance(vectors, torch.Tensor) else type(vectors).__name__
            raise Wrong(f"expected vectors of shape {(rows, count)}, got {shape}")
    turned = (q_s @ gradients @ q_a.T) / (eigenvalues + damping).sqrt()
    rotated = q_s.T @ gradients @ q_a
    products = {
        "divided by Λ+λ, so its product is divided by (Λ+λ)²: take the square root": rotated / (eigenvalues + damping),
        "multiplied by √(Λ+λ): the inverse divides": rotated * (eigenvalues + damping).sqrt(),
        "rotated the wrong way round: eigenvectors stand in columns, so Q_Sᵀ Dθ Q_A": turned,
        "the damping is missing": rotated / eigenvalues.sqrt(),
        "not rotated: Λ belongs to the eigenvectors' directions": gradients / (eigenvalues + damping).sqrt(),
        "not divided at all: that is the plain dot product": rotated,
    }
    compare(value.double() @ value.double().T, dense(whole),
            {message: x.flatten(1) @ x.flatten(1).T for message, x in products.items()}, 1e-6, "the dot products of all coordinates")
    compare(cut.double() @ cut.double().T, dense(order[:k]), {
        "those are the k smallest: keep the directions with the largest Λ/(Λ+λ)": dense(order[-k:]),
        "those are the first k: choose by Λ/(Λ+λ)": dense(whole[:k]),
    }, 1e-6, f"the dot products of {k} coordinates")
    best = (rotated / (eigenvalues + damping).sqrt()).flatten(1)[:, sorted(order[:k])]
    compare(cut, best, {}, 1e-6, "the order of the coordinates (keep that of the flattened layer; sort their places)")
    return "dot products equal to dense solves, whole and cut to 7 of 12 directions"


@check
def together(answer):
    """`answer([A], [tokens], [Λ], [sequences]) → (A, Λ)`, against both measured over the union."""
    draw, width = _draws(73), 3
    lengths, processes = ((4, 9, 2), (12, 5)), []
    for part in lengths:
        processes.append([(draw(length, width), draw(2, width)) for length in part])

    def measured(stories):
        a = torch.cat([tokens for tokens, _ in stories])
        return a.T @ a / len(a), torch.stack([g ** 2 for _, g in stories]).mean(0)

    parts, tokens = [measured(stories) for stories in processes], [sum(part) for part in lengths]
    (A_1, L_1), (A_2, L_2) = parts
    sequences = [len(part) for part in lengths]
    value = call(answer, [A_1.clone(), A_2.clone()], list(tokens), [L_1.clone(), L_2.clone()], list(sequences))
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise Wrong("expected a pair (A, Λ)")
    truth = measured(processes[0] + processes[1])
    weigh = lambda one, two, counts: (counts[0] * one + counts[1] * two) / sum(counts)
    for got, right, one, two, counts, other, name, unit in (
            (value[0], truth[0], A_1, A_2, tokens, sequences, "A", "tokens"),
            (value[1], truth[1], L_1, L_2, sequences, tokens, "Λ", "sequences")):
        if got is None or got is ...:
            raise NotAttempted
        compare(got, right, {
            f"{name} is the mean of the two means: the process with more {unit} has to count more": (one + two) / 2,
            f"{name} is a sum: divide by the {unit} of both": counts[0] * one + counts[1] * two,
            f"{name} is the sum of the two means": one + two,
            f"{name} was weighted by the wrong count: it is a mean over {unit}": weigh(one, two, other),
            f"{name} of one process only": one,
        }, 1e-9, name)
    return "A and Λ equal to those measured over the stories of both"


# -- 08 explorer ----------------------------------------------------------------------------------

@check
def word_log_probs(answer):
    """`answer(logits (T, V), ids (T,), start) → (T − start,)`, against PyTorch's cross-entropy, one position at a time."""
    draw, length, words, start = _draws(81), 9, 7, 5
    logits, ids = 2 * draw(length, words), draw(length, words).argmax(1)
    value = call(answer, logits.clone(), ids.clone(), start)
    loss = lambda place, token, table=logits: -torch.nn.functional.cross_entropy(table[place][None], token[None])
    truth = torch.stack([loss(at - 1, ids[at]) for at in range(start, length)])
    own = torch.arange(start, length)
    compare(value, truth, {
        "the logits at t predict token t+1: the completion's first token is predicted at start − 1":
            torch.stack([loss(at, ids[at]) for at in range(start, length)]),
        "those are logits: normalise them over the vocabulary": logits[own - 1, ids[own]],
        "those are probabilities: take their logarithms": truth.exp(),
        "those are losses: a log-probability is at most 0": -truth,
        "the softmax runs over the vocabulary, not over the positions": logits.log_softmax(0)[own - 1, ids[own]],
        "each token alone, not added up": truth.cumsum(0),
        "that is the log-probability of the prompt's tokens": torch.stack([loss(at - 1, ids[at]) for at in range(1, start)]),
    }, 1e-6, "the log-probabilities")
    return f"equal to PyTorch's cross-entropy for the {length - start} tokens of the completion"


@check
def two_factors(answer):
    """`answer(query, gradient (out, in+1), q_s, q_a, Λ, λ) → (length, cosine)`, against dense solves."""
    draw, out, width, damping = _draws(82), 3, 4, 0.3
    q_s, q_a = (torch.linalg.qr(draw(n, n))[0] for n in (out, width))
    eigenvalues, query, gradient = (2 * draw(out, width)).exp(), draw(out, width), draw(out, width)
    value = call(answer, query.clone(), gradient.clone(), q_s.clone(), q_a.clone(), eigenvalues.clone(), damping)
    if isinstance(value, (tuple, list)) and len(value) == 2 and not any(part is None or part is ... for part in value):
        try:
            value = torch.stack([torch.as_tensor(part).double().reshape(()) for part in value])
        except (TypeError, ValueError, RuntimeError):
            raise Wrong("expected two numbers: (length, cosine)") from None
    basis, (q, r) = torch.kron(q_s, q_a), (query.flatten(), gradient.flatten())

    def factors(power=1, damping=damping, of=r):
        matrix = basis @ torch.diag((eigenvalues.flatten() + damping) ** power) @ basis.T
        inner = lambda one, other: one @ torch.linalg.solve(matrix, other)
        return torch.stack([inner(of, of).sqrt(), inner(q, r) / (inner(q, q) * inner(r, r)).sqrt()])

    length, cosine = truth = factors()
    query_length = factors(of=q)[0]
    compare(value, truth, {
        "the length is squared: take the root": torch.stack([length ** 2, cosine]),
        "measured without the curvature: divide by √(Λ+λ) first": factors(0),
        "divided by Λ+λ, not by its root: then the product would be divided by (Λ+λ)²": factors(2),
        "the damping is missing": factors(damping=0),
        "multiplied by √(Λ+λ): the inverse divides": factors(-1),
        "the second is the inner product: divide it by both lengths": torch.stack([length, cosine * length * query_length]),
        "the length is the query's: take the story's": torch.stack([query_length, cosine]),
    }, 1e-6, "(length, cosine)")
    return "length and cosine equal to those by dense solves"


@check
def smallest_set(answer):
    """`answer(values (T,), share) → bool (T,)`, against all subsets, tried one by one."""
    from itertools import combinations
    values, share, T = _draws(85)(11), 0.8, 11
    value = call(answer, values.clone(), share)
    size = values.abs()
    # fewest tokens first; the set is unique, because it takes the largest
    truth = next(torch.zeros(T).index_fill(0, torch.tensor(chosen), 1) for count in range(1, T + 1)
                 for chosen in sorted(combinations(range(T), count), key=lambda at: -size[list(at)].sum())
                 if size[list(chosen)].sum() >= share * size.sum())
    order = size.argsort(descending=True)
    first = lambda count, order=order: torch.zeros(T).index_fill(0, order[:count], 1)
    count = int(truth.sum())
    signed = values.argsort(descending=True)
    compare(value, truth, {
        "the last one is missing: the sum has to reach the share": first(count - 1),
        "one too many: the share is reached before": first(count + 1),
        "tokens above a share of the largest; asked is a share of the sum": (size >= share * size.max()).double(),
        "tokens above 1 − share of the largest; asked is a share of the sum": (size >= (1 - share) * size.max()).double(),
        "by signed value: negative tokens count by their size": first(int((values[signed].cumsum(0) < share * values.sum()).sum()) + 1,
                                                                    signed),
        "only positive tokens: negative ones count by their size": first(
            int((values.clamp(min=0)[signed].cumsum(0) < share * values.clamp(min=0).sum()).sum()) + 1, signed),
        "by squares: sum the sizes": first(int((size[order].pow(2).cumsum(0) < share * size.pow(2).sum()).sum()) + 1),
    }, 1e-9, "the mask")
    return f"equal to the best of all {2 ** T - 1:,} sets: {count} of {T} tokens"
