"""What each method forecasts of retraining: the scores that record_retrainings.py keeps.

Every method is a *stage*: it returns scores `(Q, N)` of all questions and stories, in nats for one
copy more where the method has a unit. All but "exact" see one run only, that of seed 0. A stage is
kept in its own file, with the processor time it took in plain passes (one forward and one backward
pass over all stories), so that a run that was cut off goes on from there.
"""
import copy
import re
import time
from dataclasses import replace
from functools import cached_property, partial
from itertools import islice

import torch
from record_planted import staged
from sklearn.feature_extraction.text import TfidfVectorizer

from helpers import influence, retrain, search, terminal
from helpers.capture import backward_pass, find_layers
from helpers.curvature import EKFAC, Identity
from helpers.exact import (GaussNewton, as_parameters, conjugate_gradient_steps, flatten,
                           preconditioned, unflatten, weights)
from helpers.sources import fuse
from helpers.stories import (IGNORE, Corpus, batches, encode_query, logits_of, padded,
                             summed_loss)
from helpers.terminal.answers import Asked, exact_token_scores

SEGMENTS, STEPS, DRAWS, WIDTH = 3, 4, 32, 16
PBRF_STORIES, PBRF_CORPUS = 10, 120
TOKEN_BUDGETS = (59, 150, 300, 612)  # loss terms


def trained(model, theta):
    """A copy of the model that holds the parameters θ, with fused attention."""
    other, values = copy.deepcopy(model), retrain.parameters_of(model, theta).values()
    with torch.no_grad():
        for parameter, value in zip(other.parameters(), values):
            parameter.copy_(value)
    fuse(other)
    return other


def with_head(model, scope="all"):
    """All tracked layers and the output head, whose weight is the embedding's too."""
    head = model.get_output_embeddings()
    name = next(name for name, module in model.named_modules() if module is head)
    return find_layers(model, scope) | {name: head}


class Run:
    """One run of training, that of seed 0, and what methods read off it."""

    def __init__(self, setting, regime):
        self.setting, self.regime = setting, regime
        self.model, self.recipe = setting.models[regime], setting.recipes[regime]
        self.ids, self.questions = setting.ids, setting.questions
        self.encoded = [encode_query(setting.tokenizer, query, 512) for query in setting.queries]

    @cached_property
    def states(self):
        return retrain.trajectory(self.model, self.ids, self.recipe, 0)

    def at(self, theta, scope="mlp"):
        """The model at θ, ready to be scored: `scope` mlp, all, or all and the head."""
        model = trained(self.model, theta)
        layers = with_head(model) if scope == "head" else find_layers(model, scope)
        return terminal.Setting(model, self.setting.tokenizer, layers, self.setting.corpus,
                                batch_size=4, quiet=True)

    def mean_theta(self, part=slice(None)):
        """The mean of θ before each of the chosen steps."""
        return torch.stack([state.theta for state in self.states[:-1][part]]).mean(0)

    def gradients(self, scope="mlp"):
        """∇L_q of all questions at the end of training, by layer."""
        end = self.at(self.states[-1].theta, scope)
        return influence.query_gradients(end.model, end.layers, self.encoded)[0]

    def damping(self, run, part=slice(None)):
        """The training's own damping, `{layer: (out, in+1)}`."""
        flat = retrain.path_damping(self.states, self.ids, self.recipe, part)
        return {name: flat[place]
                for name, place in retrain.layer_places(run.model, run.layers).items()}


def by_layer(damping):
    """One λ a layer of one for every weight: the harmonic mean."""
    return {name: 1 / (1 / values).mean().item() for name, values in damping.items()}


# -- by gradients --------------------------------------------------------------------------------

def scored(run, ihvps):
    """`{name: scores}` of several iHVPs, in one pass over the stories."""
    together = {name: torch.cat([vectors[name] for vectors in ihvps.values()])
                for name in run.layers}
    scores = influence.sequence_scores(run.model, run.layers, run.stream(), together,
                                       len(run.corpus))
    return dict(zip(ihvps, scores.chunk(len(ihvps))))


def exact(training, seed=0):
    """The gradient through training, `(Q, N, T)`."""
    states = retrain.trajectory(training.model, training.ids, training.recipe, seed)
    return {"exact": retrain.metagradient(training.model, training.ids, training.recipe, seed,
                                          states, training.questions)}


def flat_exact(training):
    """The same without curvature: a change of θ is handed on as it is."""
    return {"no curvature": retrain.metagradient(
        training.model, training.ids, training.recipe, 0, training.states, training.questions,
        bends=False).sum(-1)}


def fitted(training, method, scope="mlp", theta=None):
    """`(run, curvature, ∇L_q)` at the end of training or another θ; ∇L_q is always of the end."""
    run = training.at(training.states[-1].theta if theta is None else theta, scope)
    return run, terminal.fit(run, method), training.gradients(scope)


def alone(training, name, method="ekfac", scope="mlp", theta=None, target="influence"):
    """The scores of one curvature. EK-FAC of the MLPs at the end is what the paper does."""
    run, curvature, gradients = fitted(training, method, scope, theta and theta(training))
    run.target = target  # "content": the margin, TRAK's output (notebook 04)
    return scored(run, {name: curvature.solve(gradients)})


def cosine(training):
    """The dot product of gradients and their cosine."""
    run, _, gradients = fitted(training, "identity")
    scores, lengths = influence.scores_and_lengths(run.model, run.layers, run.stream(), gradients,
                                                   [Identity(run.layers)], len(run.corpus))
    return {"dot": scores, "cosine": scores / lengths}


def relatif(training):
    """EK-FAC's scores divided by each story's own length (Barshan et al. 2020); at ten times λ."""
    run, ekfac, gradients = fitted(training, "ekfac")
    scores, lengths = influence.scores_and_lengths(
        run.model, run.layers, run.stream(), ekfac.solve(gradients), [ekfac], len(run.corpus))
    wider = EKFAC(ekfac.blocks, {name: 10 * value for name, value in ekfac.damping.items()})
    return scored(run, {"ekfac λ×10": wider.solve(gradients)}) | {"relatif": scores / lengths}


def head(training):
    """With the output head: no curvature, and EK-FAC damped as the training itself damps."""
    run, ekfac, gradients = fitted(training, "ekfac", "head")
    own = EKFAC(ekfac.blocks, by_layer(training.damping(run)))
    return scored(run, {"dot head": gradients, "ekfac path": own.solve(gradients)})


def source(training):
    """SOURCE with three segments, over all layers and the head; nothing is chosen."""
    count = len(training.states) - 1
    cuts = [round(part * count / SEGMENTS) for part in range(SEGMENTS + 1)]
    runs, curvatures = [], []
    for part in map(slice, cuts, cuts[1:]):
        run = training.at(training.mean_theta(part), "head")
        blocks = terminal.fit(run, "ekfac").blocks
        runs.append(run)
        curvatures.append(EKFAC(blocks, by_layer(training.damping(run, part))))
    vectors = retrain.segments(curvatures, training.gradients("head"))
    return {"segments": sum(scored(run, {"": vector})[""] for run, vector in zip(runs, vectors))}


# -- steps on the Gauss–Newton Hessian -----------------------------------------------------------

def steps(training, count=STEPS):
    """EK-FAC-preconditioned conjugate gradients on the exact Gauss–Newton Hessian (ASTRA's idea).

    G over all stories and all layers at the mean θ, with the training's own damping of every
    weight. "steps 0" is the preconditioner alone.
    """
    run, ekfac, gradients = fitted(training, "ekfac", "all", training.mean_theta())
    damping = training.damping(run)
    near = EKFAC(ekfac.blocks, by_layer(damping))
    exact = GaussNewton(run.model, run.layers, run.stream, damping)
    course = conjugate_gradient_steps(exact.damped_product, flatten(gradients),
                                      preconditioned(near, run.layers))
    ihvps, residuals = {"steps 0": near.solve(gradients)}, []
    for number, (x, residual) in enumerate(islice(course, count), start=1):
        ihvps[f"steps {number}"] = unflatten(x, run.layers)
        residuals.append(residual)
    return scored(run, ihvps) | {"residuals": torch.stack(residuals),
                                 "terms": loss_terms(run, ihvps[f"steps {count}"])}


# -- the unit ------------------------------------------------------------------------------------

def rayleigh(training, questions=slice(1, 16, 2)):
    """Along EK-FAC's iHVP p: what the exact G says, between all pairs of MLP layers, `(Q, L, L)`.

    With it, by layer `(Q, L)`: EK-FAC's own pᵀĜp, the damping's λpᵀp, and ∇L_qᵀp, their sum.
    """
    run, ekfac, gradients = fitted(training, "ekfac")
    gradients = {name: values[questions] for name, values in gradients.items()}
    ihvps, names = ekfac.solve(gradients), list(run.layers)
    whole = GaussNewton(run.model, run.layers, run.stream, 0.0)
    parts = torch.stack([flatten({other: values * (other == name) for other, values
                                  in ihvps.items()}) for name in names], 1)  # (Q, L, P)
    bent = torch.cat([whole.product(rows) for rows in parts.flatten(0, 1).split(16)])
    bent = bent.view_as(parts)
    exact = torch.einsum("qlp,qmp->qlm", parts, bent)
    damped = torch.stack([ekfac.damping[name] * ihvps[name].flatten(1).pow(2).sum(1)
                          for name in names], 1)
    pull = torch.stack([(gradients[name] * ihvps[name]).flatten(1).sum(1) for name in names], 1)
    return {"rayleigh": exact, "damped": damped, "pull": pull}


def pbrf(training, stories=PBRF_STORIES, count=PBRF_CORPUS):
    """The proximal Bregman response itself, for a few stories of a small corpus, MLP weights only.

    `truth`: change of every f `(stories, Q)`; beside it what EK-FAC, the exact (G+λI)⁻¹ and the
    dot product forecast; `gap`: what is left of the objective's gradient at its minimum.
    """
    end = training.at(training.states[-1].theta)
    run = replace(end, corpus=Corpus(end.corpus.stories[:count], end.corpus.ids[:count]))
    ekfac, asked = terminal.fit(run, "ekfac"), training.gradients()
    captured, _ = backward_pass(run.model, run.layers, padded(run.corpus.ids, list(range(stories))))
    own = {name: record.gradients() for name, record in captured.items()}
    exact = GaussNewton(run.model, run.layers, run.stream, ekfac.damping, ekfac, 30, 1e-2)
    moves = {"dot": own, "ekfac": ekfac.solve(own), "solved": exact.solve(own)}
    measured, gaps = zip(*(response(training, run, ekfac, row) for row in range(stories)))
    return {name: flatten(move) @ flatten(asked).T / count for name, move in moves.items()} | {
        "truth": torch.stack(measured), "gap": torch.tensor(gaps)}


def response(training, run, ekfac, row):
    """Minimises mean Bregman divergence + (λ/2)‖θ−θˢ‖² + (1/N) L(z) (Grosse et al. 2023, eq 8).

    L-BFGS in coordinates that EK-FAC has whitened; `(change of f (Q,), relative gradient left)`.
    """
    start, count = weights(run.layers), len(run.corpus)
    batches_, story = list(run.stream()), padded(run.corpus.ids, [row])
    with torch.no_grad():
        before = [logits_of(run.model, batch) for batch in batches_]
    white = flatten(start).mul(0).requires_grad_()

    def moved():
        step = ekfac.spectral(unflatten(white, run.layers),
                              lambda values, damping: (values + damping).rsqrt())
        return {name: start[name] + step[name] for name in start}, step

    def objective():
        optimiser.zero_grad()
        for batch, old in zip(batches_, before):
            theta, _ = moved()
            new = logits_of(run.model, batch, as_parameters(theta, run.layers)).log_softmax(-1)
            old = old.log_softmax(-1)
            apart = (old.exp() * (old - new)).sum(-1) * (batch.labels != IGNORE)
            (apart.sum() / count).backward()
        theta, step = moved()
        loss = summed_loss(logits_of(run.model, story, as_parameters(theta, run.layers)),
                           story.labels).sum() / count
        pull = sum(ekfac.damping[name] / 2 * part.pow(2).sum() for name, part in step.items())
        (loss + pull).backward()
        norms.append(white.grad.norm().item())
        return loss + pull

    norms = []
    optimiser = torch.optim.LBFGS([white], max_iter=30, history_size=30, tolerance_grad=0,
                                  tolerance_change=0)
    optimiser.step(objective)
    with torch.no_grad():
        theta, _ = moved()
        answers = [-summed_loss(logits_of(run.model, training.questions, values),
                                training.questions.labels)
                   for values in (as_parameters(theta, run.layers),
                                  as_parameters(start, run.layers))]
    return answers[0] - answers[1], norms[-1] / norms[0]


# -- without curvature, without gradients --------------------------------------------------------

def projection(training):
    """Random sides of each layer, gradients divided by Adam's √v̂, whitened cosines."""
    run, gradients = training.at(training.states[-1].theta, "head"), training.gradients("head")
    end = training.states[-1]
    root = end.root(len(training.states) - 2, training.recipe)
    places = retrain.layer_places(run.model, run.layers)
    scales = {name: 1 / root[place] for name, place in places.items()}
    sides = search.random_sides(run.layers, WIDTH)
    rows = torch.zeros(len(run.corpus), len(run.layers) * WIDTH**2)
    for batch in run.stream():
        captured, _ = backward_pass(run.model, run.layers, batch)
        own = {name: record.gradients() for name, record in captured.items()}
        rows[batch.index] = search.projected(own, sides, scales)
    asked = search.projected(gradients, sides, scales)
    return {"projection": search.whitened_cosines(asked, rows)}


def representation(training):
    """The cosine of mean last hidden states, the question with its answer."""
    run = training.at(training.states[-1].theta)
    stories = search.representations(run.model, run.stream(), len(run.corpus))
    asked = search.representations(run.model, batches([ids for ids, _ in training.encoded], 4),
                                   len(training.encoded))
    center = stories.mean(0)
    a, b = (torch.nn.functional.normalize(rows - center) for rows in (asked, stories))
    return {"representation": a @ b.T}


def covariance(training):
    """Of losses over fine-tunes with random weights of the stories."""
    return {"covariance": retrain.loss_covariance(training.model, training.ids, training.recipe,
                                                  training.questions, DRAWS)}


def words(training):
    """TF-IDF and BM25 of the question's words, the answer's counts, and random numbers."""
    asked = [query.prompt + query.completion for query in training.setting.queries]
    texts = [story.text for story in training.setting.corpus.stories]
    draw = torch.Generator().manual_seed(6)
    return {"tfidf": torch.from_numpy(search.tfidf_scores(asked, texts)),
            "bm25": torch.from_numpy(search.bm25_scores(asked, texts)),
            "answers": answer_counts(training),
            "random": torch.rand(len(asked), len(texts), generator=draw)}


def answer_counts(training):
    """The derivative of the answer's tokens' log-frequencies by each story's weight, `(Q, N)`.

    What a model would do that learns only how often each token comes.
    """
    counts = torch.stack([torch.bincount(torch.tensor(ids[1:]), minlength=len(
        training.setting.tokenizer)) for ids in training.ids]).float()
    share = counts / counts.sum(0).clamp(min=1) - counts.sum(1, keepdim=True) / counts.sum()
    return torch.stack([share[:, ids[start:]].sum(1) for ids, start in training.encoded])


# -- loss terms ----------------------------------------------------------------------------------

def ekfac_terms(training):
    """The influence of every loss term under the paper's EK-FAC, and eq 31: two `(Q, N, T)`."""
    run, gradients = training.at(training.states[-1].theta), training.gradients()
    ihvps = terminal.fit(run, "ekfac").solve(gradients)
    asked = Asked(training.setting.queries, torch.zeros(len(training.encoded)), ihvps)
    return {"terms": loss_terms(run, ihvps), "eq 31": exact_token_scores(run, asked)["token"]}


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


def words_predicted(training):
    """TF-IDF by loss term, `(Q, N, T)`.

    The story's similarity times what the predicted word adds to it.
    """
    setting = training.setting
    asked = [query.prompt + query.completion for query in setting.queries]
    texts = [story.text for story in setting.corpus.stories]
    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=search.WORD)
    stories = vectorizer.fit_transform(texts).toarray()
    wanted = vectorizer.transform(asked).toarray()
    terms = torch.zeros(len(asked), len(texts), max(map(len, setting.ids)))
    for row, text in enumerate(texts):
        adds = torch.from_numpy(wanted * stories[row])
        spoken = [(match.span(), vectorizer.vocabulary_[match[0].lower()])
                  for match in re.finditer(search.WORD, text)]
        spans = setting.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        for t, (left, right) in enumerate(spans[1:]):
            for (start, end), word in spoken:
                if left < end and right > start:
                    terms[:, row, t] = adds[:, word] * adds.sum(1)
    return terms


def answers_predicted(training, similarity):
    """1 + TF-IDF where a loss term predicts a token of the answer, `(Q, N, T)`; else its TF-IDF.

    `similarity` `(Q, N, T)` is that of `words_predicted`, in 0 to 1.
    """
    terms = similarity.clone()
    for row, ids in enumerate(training.ids):
        for query, (asked, start) in enumerate(training.encoded):
            said = torch.isin(torch.tensor(ids[1:]), torch.tensor(asked[start:]))
            terms[query, row, :len(said)] += said
    return terms


def strongest(ids, values, count):
    """Flat positions `(Q, count)` of the loss terms with the largest values `(Q, N, T)`."""
    real = torch.zeros(values.shape[1:], dtype=torch.bool)
    for row, story in enumerate(ids):
        real[row, :len(story) - 1] = True
    return values.masked_fill(~real, -torch.inf).flatten(1).topk(count).indices.int()


# -- all of them ---------------------------------------------------------------------------------

def at_mean(training):
    return training.mean_theta()


BOTH = {"words": words, "cosine": cosine, "relatif": relatif, "representation": representation,
        "content": partial(alone, name="content", target="content"), "head": head,
        "ekfac": partial(alone, name="ekfac"), "projection": projection,
        "kfac": partial(alone, name="kfac", method="kfac"),
        "diagonal": partial(alone, name="diagonal", method="diagonal"),
        "ekfac all": partial(alone, name="ekfac all", scope="all"),
        "ekfac head": partial(alone, name="ekfac head", scope="head"),
        "mean all": partial(alone, name="mean all", scope="all", theta=at_mean),
        "mean head": partial(alone, name="mean head", scope="head", theta=at_mean),
        "segments": source, "exact": exact}
FINE = {"steps": steps, "covariance": covariance, "rayleigh": rayleigh, "flat": flat_exact,
        "terms": ekfac_terms, "pbrf": pbrf, "exact, seed 1": partial(exact, seed=1)}


def plain_pass(training):
    """Seconds of processor time of one forward and backward pass over all stories."""
    run = training.at(training.states[-1].theta)
    begun = time.process_time()
    for batch in run.stream():
        backward_pass(run.model, run.layers, batch)
    return time.process_time() - begun


def stage(training, folder, name, make):
    """The tensors of one stage and its cost in plain passes."""
    def made():
        unit, begun = plain_pass(training), time.process_time()
        tensors = make(training)
        cost = (time.process_time() - begun) / unit
        return {key: value.contiguous() for key, value in tensors.items()} | {
            "cost": torch.tensor(cost)}
    return staged(folder / f"{name}.safetensors", made)
