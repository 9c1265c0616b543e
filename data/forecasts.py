"""What each method says of every story before it is left out: the stages of record_retrainings.py.

A stage gives tensors by name: `score/<method>` `(Q, N)`, the influence of every story on every
question; `tokens/<way>`, loss terms, the largest influence first; `cost/<method>`, what it cost in
plain passes (forward and backward over all stories, gradients of all parameters), in processor
time of one thread.
"""
import copy
import re
import time
from contextlib import contextmanager
from functools import cached_property

import baselines
import torch
from record_planted import HERE  # noqa: F401, which puts the series on the path
from scipy.optimize import minimize
from sklearn.feature_extraction.text import TfidfVectorizer

from helpers import exact, influence, retrain, search, terminal
from helpers.capture import find_layers
from helpers.curvature import EKFAC, Block, Identity
from helpers.sources import fuse
from helpers.stories import IGNORE, batches, encode_query, padded, sequence_loss
from helpers.terminal.answers import Asked, exact_token_scores

DAMPINGS = (0.1, 10, 100)  # times EK-FAC's own
STEPS = 4                  # of conjugate gradients
PARTS = 3                  # segments of training
WIDTH, DRAWS = 16, 32      # of a random projection's sides; fine-tunes with random weights
PROXIMAL = 8               # stories that are added in the proximal problem
NEIGHBOURS = 120           # stories it is posed over
TOKEN_SHARE = 0.01         # of the loss terms are kept, those of largest influence


class Course:
    """One training, the states it went through, and the questions asked of its end."""

    def __init__(self, setting, regime, seed=0):
        self.setting, self.regime = setting, regime
        self.model, self.recipe = setting.models[regime], setting.recipes[regime]
        self.ids, self.seed, self.costs = setting.ids, seed, {}

    @cached_property
    def states(self):
        return retrain.trajectory(self.model, self.ids, self.recipe, self.seed)

    @cached_property
    def plain_pass(self) -> float:
        """Seconds of one pass."""
        def once():
            begun = time.process_time()
            for batch in batches(self.ids, 32):
                sequence_loss(self.model, batch).sum().backward()
                self.model.zero_grad()
            return time.process_time() - begun
        return min(once() for _ in range(3))

    @contextmanager
    def timed(self, method):
        """What runs inside, added to `cost/<method>`."""
        unit, begun = self.plain_pass, time.process_time()
        yield
        spent = torch.tensor((time.process_time() - begun) / unit)
        self.costs[f"cost/{method}"] = self.costs.get(f"cost/{method}", 0) + spent

    def mean_theta(self, part=slice(None)):
        """The mean parameters of the states after these steps."""
        return torch.stack([state.theta for state in self.states[1:][part]]).mean(0)

    def run(self, scope="mlp", theta=None, head=False):
        """The model at `theta` (default: the end) with the layers of a scope, as a `Setting`."""
        model = trained(self.model, self.states[-1].theta if theta is None else theta)
        layers = find_layers(model, scope)
        if head:
            layers["lm_head"] = model.get_output_embeddings()
        return terminal.Setting(model, self.setting.tokenizer, layers, self.setting.corpus,
                                batch_size=4, quiet=True)

    def gradients(self, run):
        """∇L_q of all questions."""
        encoded = [encode_query(self.setting.tokenizer, query, 512)
                   for query in self.setting.queries]
        return influence.query_gradients(run.model, run.layers, encoded)[0]

    def path_damping(self, run, part=slice(None)):
        """`retrain.path_damping` of a run's layers, `{layer: (out, in+1)}`."""
        flat = retrain.path_damping(self.states, self.ids, self.recipe, part)
        places = retrain.layer_places(run.model, run.layers)
        return {name: flat[at] for name, at in places.items()}


def trained(model, theta):
    """A copy of the model that holds the parameters θ, with fused attention."""
    other, values = copy.deepcopy(model), retrain.parameters_of(model, theta).values()
    with torch.no_grad():
        for parameter, value in zip(other.parameters(), values):
            parameter.copy_(value)
    fuse(other)
    return other


def scored(run, ihvps):
    return influence.sequence_scores(run.model, run.layers, run.stream(), ihvps, len(run.corpus))


def by_ekfac(course, name, **where):
    """EK-FAC of other layers, or at another θ."""
    with course.timed(name):
        run = course.run(**where)
        ihvps = terminal.fit(run, "ekfac").solve(course.gradients(run))
        return {f"score/{name}": scored(run, ihvps)}


# -- through training ----------------------------------------------------------------------------

def unrolled(course):
    """The exact gradient, by story and by loss term."""
    with course.timed("exact"):
        values = retrain.metagradient(course.model, course.ids, course.recipe, course.seed,
                                      course.states, course.setting.questions)
    return {"score/exact": values.sum(-1), "tokens/exact": strongest(course.setting, values)}


def unrolled_again(course):
    """The same of a run that reads the stories in another order."""
    other = Course(course.setting, course.regime, seed=1)
    return {"score/exact, seed 1": unrolled(other)["score/exact"]} | {
        "cost/exact": other.costs["cost/exact"]}


def flat(course):
    """Without what a change of θ does to later gradients."""
    values = retrain.metagradient(course.model, course.ids, course.recipe, course.seed,
                                  course.states, course.setting.questions, bends=False)
    return {"score/no curvature": values.sum(-1)}


def by_segments(course):
    """SOURCE: EK-FAC at the mean θ of each segment of training, damped by its time."""
    steps = len(course.states) - 1
    with course.timed("segments"):
        parts = [slice(steps * at // PARTS, steps * (at + 1) // PARTS) for at in range(PARTS)]
        runs = [course.run("all", course.mean_theta(part), head=True) for part in parts]
        curvatures = []
        for run, part in zip(runs, parts):
            by_layer = course.path_damping(run, part)
            damping = {name: 1 / (1 / values).mean().item() for name, values in by_layer.items()}
            curvatures.append(EKFAC(terminal.fit(run, "ekfac").blocks, damping))
        end = course.run("all", head=True)
        vectors = baselines.segments(curvatures, course.gradients(end))
        return {"score/segments": sum(scored(*pair) for pair in zip(runs, vectors))}


def by_covariance(course):
    """Of losses and answers over fine-tunes with random weights."""
    with course.timed("covariance"):
        return {"score/covariance": baselines.loss_covariance(
            course.model, course.ids, course.recipe, course.setting.questions, DRAWS)}


# -- with gradients at the end -------------------------------------------------------------------

def by_gradients(course):
    """The MLPs' gradients under four curvatures and three more dampings; their cosines."""
    run = course.run()
    gradients = course.gradients(run)
    curvatures = {name: terminal.fit(run, name)
                  for name in ("ekfac", "kfac", "diagonal", "identity")}
    ekfac = curvatures["ekfac"]
    for factor in DAMPINGS if course.regime == "fine" else ():
        damping = {name: factor * value for name, value in ekfac.damping.items()}
        curvatures[f"ekfac λ×{factor}"] = EKFAC(ekfac.blocks, damping)
    ihvps = {name: curvature.solve(gradients) for name, curvature in curvatures.items()}
    together = {name: torch.cat([each[name] for each in ihvps.values()]) for name in run.layers}
    scores, (lengths,) = influence.scores_and_lengths(
        run.model, run.layers, run.stream(), together, [Identity(run.layers)], len(run.corpus))
    own = sum(rows.flatten(1).pow(2).sum(1) for rows in gradients.values()).sqrt()
    by_method = dict(zip(ihvps, scores.split(len(own))))
    by_method["dot"] = by_method.pop("identity")
    by_method["cosine"] = by_method["dot"] * len(run.corpus) / lengths / own[:, None]
    return {f"score/{name}": values for name, values in by_method.items()}


def by_loss_terms(course):
    """Which loss terms EK-FAC puts first: by eq 31, and one at a time; words that match."""
    run = course.run()
    ihvps = terminal.fit(run, "ekfac").solve(course.gradients(run))
    asked = Asked(course.setting.queries, None, ihvps)
    values = {"ekfac": exact_token_scores(run, asked)["token"], "terms": loss_terms(run, ihvps),
              "tfidf": words_predicted(course.setting)}
    return {f"tokens/{way}": strongest(course.setting, each) for way, each in values.items()}


def by_scope(course):
    """Which layers and which θ: EK-FAC of the MLPs, with attention, with the output head."""
    scores = by_ekfac(course, "ekfac, all layers", scope="all")
    scores |= by_ekfac(course, "ekfac, head", scope="all", head=True)
    mean = course.mean_theta()
    scores |= by_ekfac(course, "ekfac, mean θ", scope="all", theta=mean)
    scores |= by_ekfac(course, "ekfac, head, mean θ", scope="all", theta=mean, head=True)
    with course.timed("dot"):
        run = course.run("all", head=True)
        scores["score/dot, head"] = scored(run, course.gradients(run))
    return scores


def by_other_ratios(course):
    """The paper's EK-FAC again, timed; divided by the stories' lengths; stories by their margin."""
    with course.timed("ekfac"):
        run = course.run()
        curvature = terminal.fit(run, "ekfac")
        ihvps = curvature.solve(course.gradients(run))
        scores, (lengths,) = influence.scores_and_lengths(
            run.model, run.layers, run.stream(), ihvps, [curvature], len(run.corpus))
    run.target = "content"
    return {"score/relatif": scores / lengths, "score/margin": scored(run, ihvps)}


def by_steps(course):
    """Conjugate gradients on the exact G of all stories, damped by the path, at the mean θ.

    EK-FAC preconditions, with the same damping on the diagonal of its eigenbasis.
    """
    with course.timed("steps"):
        run = course.run("all", course.mean_theta())
        damping = course.path_damping(run)
        ekfac, gradients = terminal.fit(run, "ekfac"), course.gradients(run)
        near = EKFAC(path_damped(ekfac.blocks, damping), damping=0)
        g = exact.GaussNewton(run.model, run.layers, run.stream, damping, near)
        solved, residuals = [near.solve(gradients)], []
        steps = exact.conjugate_gradient_steps(g.damped_product, exact.flatten(gradients),
                                               exact.preconditioned(near, run.layers))
        for _, (x, left) in zip(range(STEPS), steps):
            solved.append(exact.unflatten(x, run.layers))
            residuals.append(left)
        together = {name: torch.cat([each[name] for each in solved]) for name in run.layers}
        scores = scored(run, together).split(len(residuals[0]))
    return {f"score/steps {at}": values for at, values in enumerate(scores)} | {
        "residuals": torch.stack(residuals)}


def path_damped(blocks, damping):
    """Λ plus the damping's diagonal in the eigenbasis: a damping by weight, seen from there."""
    return {name: Block(block.q_a, block.q_s, block.eigenvalues + block.q_s.T ** 2
                        @ damping[name].double() @ block.q_a ** 2)
            for name, block in blocks.items()}


def by_projection(course):
    """Gradients of all layers between random sides, by the optimiser's moments; hidden states."""
    with course.timed("projection"):
        run = course.run("all", head=True)
        root = course.states[-1].root(len(course.states) - 2, course.recipe)
        places = retrain.layer_places(run.model, run.layers)
        scales = {name: 1 / root[at] for name, at in places.items()}
        sides = search.random_sides(run.layers, WIDTH)
        questions = search.projected(course.gradients(run), sides, scales)
        stories = torch.zeros(len(run.corpus), questions.shape[1])
        for batch in run.stream():
            captured, _ = influence.backward_pass(run.model, run.layers, batch)
            rows = {name: record.gradients() for name, record in captured.items()}
            stories[batch.index] = search.projected(rows, sides, scales)
        scores = {"score/projection": baselines.whitened_cosines(questions, stories)}
    with course.timed("representation"):
        asked = [encode_query(course.setting.tokenizer, query, 512).ids
                 for query in course.setting.queries]
        ours, theirs = (torch.nn.functional.normalize(baselines.representations(
            run.model, batches(ids, 16), len(ids))) for ids in (asked, course.ids))
    return scores | {"score/representation": ours @ theirs.T}


# -- the unit ------------------------------------------------------------------------------------

def by_rayleigh(course):
    """pᵀ(G+λ)p / gᵀp along EK-FAC's iHVP p, where EK-FAC says 1: G block by block, and whole.

    `pull` is the damping's part of it.
    """
    run = course.run()
    curvature = terminal.fit(run, "ekfac")
    gradients = {name: rows[1::2][:8] for name, rows in course.gradients(run).items()}
    solved = curvature.solve(gradients)
    g = exact.GaussNewton(run.model, run.layers, run.stream, curvature.damping)
    none = {name: torch.zeros_like(rows) for name, rows in solved.items()}
    rows = [solved, *({**none, name: solved[name]} for name in run.layers)]
    whole, *alone = (exact.flatten(row) for row in rows)
    pushed, *pushed_alone = g.product(torch.stack([whole, *alone]))
    pull = sum(curvature.damping[name] * part.pow(2).sum((1, 2)) for name, part in solved.items())
    base = (exact.flatten(gradients) * whole).sum(-1)
    blocks = sum((p * pushed).sum(-1) for p, pushed in zip(alone, pushed_alone))
    return {"rayleigh/layers": ((whole * pushed).sum(-1) + pull) / base,
            "rayleigh/blocks": (blocks + pull) / base, "rayleigh/pull": pull / base}


def by_proximity(course):
    """The proximal Bregman response to one copy more of each of some stories, over a small corpus.

    Minimises (1/N) Σ KL(p_now ‖ p_θ) + L(z)/N + ½ λ ‖θ − θ_now‖² (Grosse et al. 2023, eq 7) over
    the MLPs' weights. Beside it what its linear form (G + λ)⁻¹ says, EK-FAC, and the dot product.
    """
    corpus = copy.copy(course.setting.corpus)
    corpus.stories, corpus.ids = corpus.stories[:NEIGHBOURS], corpus.ids[:NEIGHBOURS]
    run = course.run()
    run.corpus = corpus
    curvature, questions = terminal.fit(run, "ekfac"), course.setting.questions
    gradients = course.gradients(run)
    rows = list(range(0, NEIGHBOURS, NEIGHBOURS // PROXIMAL))
    captured, _ = influence.backward_pass(run.model, run.layers, padded(corpus.ids, rows))
    added = exact.flatten({name: record.gradients() for name, record in captured.items()})
    near = exact.preconditioned(curvature, run.layers)
    g = exact.GaussNewton(run.model, run.layers, run.stream, curvature.damping)
    solved, _ = exact.conjugate_gradients(g.damped_product, added, near, 20)
    asked = exact.flatten(gradients)
    said = {"solved": solved, "ekfac": near(added), "dot": added}
    problem = Proximal(run, curvature)
    minima, left = zip(*(problem.minimum(row) for row in rows))
    answers = torch.stack([problem.answers(theta, questions)
                           for theta in (problem.start, *minima)], 1)
    return {f"pbrf/{name}": asked @ moves.T / NEIGHBOURS for name, moves in said.items()} | {
        "pbrf/truth": answers[:, 1:] - answers[:, :1], "pbrf/left": torch.tensor(left)}


class Proximal:
    """What is minimised, and its minimum by L-BFGS in coordinates that EK-FAC makes round."""

    def __init__(self, run, curvature):
        self.run, self.curvature, self.count = run, curvature, len(run.corpus.ids)
        self.start = exact.flatten(exact.weights(run.layers))
        self.pull = exact.flatten({name: torch.full_like(values, curvature.damping[name])
                                   for name, values in exact.weights(run.layers).items()})
        self.now = [torch.log_softmax(self.logits(self.start, batch), -1).detach()
                    for batch in run.stream()]

    def logits(self, theta, batch):
        parameters = exact.as_parameters(exact.unflatten(theta, self.run.layers), self.run.layers)
        return influence.logits_of(self.run.model, batch, parameters)

    def answers(self, theta, questions):
        with torch.no_grad():
            return -influence.token_losses(self.logits(theta, questions), questions.labels).sum(1)

    def value_and_gradient(self, theta, row):
        """With one copy more of story `row`."""
        theta = theta.detach().requires_grad_()
        added = padded(self.run.corpus.ids, [row])
        value = influence.token_losses(self.logits(theta, added), added.labels).sum() / self.count
        value = value + (self.pull * (theta - self.start) ** 2).sum() / 2
        gradient, = torch.autograd.grad(value, theta)
        value = value.detach()
        for batch, now in zip(self.run.stream(), self.now):
            then = torch.log_softmax(self.logits(theta, batch), -1)
            apart = (now.exp() * (now - then)).sum(-1)[batch.labels != IGNORE].sum() / self.count
            gradient += torch.autograd.grad(apart, theta)[0]
            value += apart.detach()
        return value, gradient

    def rounded(self, v):
        """(G + λ)^(−1/2) v by EK-FAC."""
        by_layer = self.curvature.spectral(exact.unflatten(v, self.run.layers),
                                           lambda values, damping: (values + damping).rsqrt())
        return exact.flatten(by_layer)

    def minimum(self, row, most=60):
        """θ, and the share of the story's own gradient that is left there."""
        def objective(x):
            theta = self.start + self.rounded(torch.from_numpy(x).to(self.start))
            value, gradient = self.value_and_gradient(theta, row)
            return value.item(), self.rounded(gradient).double().numpy()

        zero = torch.zeros(len(self.start)).double().numpy()
        found = minimize(objective, zero, jac=True, method="L-BFGS-B",
                         options={"maxfun": most, "gtol": 0})
        theta = self.start + self.rounded(torch.from_numpy(found.x).to(self.start))
        first, last = (self.value_and_gradient(point, row)[1] for point in (self.start, theta))
        return theta, (last.norm() / first.norm()).item()


# -- by words ------------------------------------------------------------------------------------

def by_words(course):
    """TF-IDF and BM25 of the question's words, the answer's frequency, and random numbers."""
    setting = course.setting
    asked = [query.prompt + query.completion for query in setting.queries]
    texts = [story.text for story in setting.corpus.stories]
    draw = torch.Generator().manual_seed(6)
    tfidf = torch.from_numpy(search.tfidf_scores(asked, texts)).float()
    return {"score/tfidf": tfidf,
            "score/bm25": torch.from_numpy(baselines.bm25_scores(asked, texts)).float(),
            "score/random": torch.rand(len(asked), len(texts), generator=draw),
            "score/answer count": answer_counts(setting),
            "tokens/answers": strongest(setting, answer_terms(setting, tfidf))}


def answer_counts(setting):
    """d/dw of Σ log(frequency) of the answer's tokens among all targets: no model at all."""
    vocabulary = len(setting.tokenizer)
    counts = torch.stack([torch.bincount(torch.tensor(ids[1:]), minlength=vocabulary)
                          for ids in setting.ids]).float()
    share = counts / counts.sum(0).clamp(min=1) - (counts.sum(1) / counts.sum())[:, None]
    labels = setting.questions.labels
    return torch.stack([share[:, row[row != IGNORE]].sum(1) for row in labels])


def answer_terms(setting, tfidf):
    """1 + the story's TF-IDF where an answer's first token is predicted, else 0: `(Q, N, T)`."""
    terms = torch.zeros(len(tfidf), len(setting.ids), max(map(len, setting.ids)))
    answers = torch.stack([labels[labels != IGNORE][0] for labels in setting.questions.labels])
    for row, ids in enumerate(setting.ids):
        said = torch.tensor(ids[1:]) == answers[:, None]
        terms[:, row, :len(ids) - 1] = said * (1 + tfidf[:, row, None])
    return terms


def loss_terms(run, ihvps):
    """The influence of every loss term, `(Q, N, T)`."""
    count, total = len(next(iter(ihvps.values()))), len(run.corpus)
    directions = [{name: ihvp[query] for name, ihvp in ihvps.items()} for query in range(count)]
    terms = torch.zeros(count, total, max(map(len, run.corpus.ids)))
    for batch in run.stream():
        for query, direction in enumerate(directions):
            values = influence.loss_slopes(run.model, run.layers, batch, direction) / total
            terms[query, batch.index, :values.shape[-1]] = values
    return terms


def words_predicted(setting):
    """TF-IDF by loss term, `(Q, N, T)`.

    The story's similarity times what the predicted word adds to it.
    """
    asked = [query.prompt + query.completion for query in setting.queries]
    texts = [story.text for story in setting.corpus.stories]
    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=search.WORD)
    stories = vectorizer.fit_transform(texts).toarray()
    wanted = vectorizer.transform(asked).toarray()
    terms = torch.zeros(len(asked), len(texts), max(map(len, setting.ids)))
    for row, text in enumerate(texts):
        adds = torch.from_numpy(wanted * stories[row])
        words = [(match.span(), vectorizer.vocabulary_[match[0].lower()])
                 for match in re.finditer(search.WORD, text)]
        places = setting.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        for t, (left, right) in enumerate(places[1:]):
            for (start, end), word in words:
                if left < end and right > start:
                    terms[:, row, t] = adds[:, word] * adds.sum(1)
    return terms


def strongest(setting, values):
    """Flat positions `(Q, M)` of the loss terms with the largest values, the largest first.

    M is TOKEN_SHARE of all terms; −1 from where a value is 0 on, for which nothing speaks.
    """
    real = torch.zeros(values.shape[1:], dtype=torch.bool)
    for row, ids in enumerate(setting.ids):
        real[row, :len(ids) - 1] = True
    count = round(TOKEN_SHARE * real.sum().item())
    best = values.masked_fill(~real, -torch.inf).flatten(1).topk(count)
    return torch.where(best.values == 0, -1, best.indices).int()


STAGES = {("small", "fine"): (unrolled, unrolled_again, by_steps, by_scope, by_segments,
                              by_other_ratios, by_projection, by_words, by_covariance, flat,
                              by_gradients, by_loss_terms, by_rayleigh, by_proximity),
          ("small", "scratch"): (unrolled, by_gradients, by_words, by_scope, by_other_ratios,
                                 by_projection, by_segments, by_steps),
          ("model", "fine"): (unrolled, by_steps, by_scope, by_other_ratios, by_projection,
                              by_words, by_segments, by_gradients)}
