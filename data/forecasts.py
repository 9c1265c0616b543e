"""What each method forecasts of retraining: the scores that record_retrainings.py keeps.

Every method is a *stage*: it returns scores `(Q, N)` of all questions and stories, in nats for one
copy more where the method has a unit. All but "exact" see one run only, that of seed 0. A stage is
kept in its own file, with the processor time it took in plain passes (one forward and one backward
pass over all stories), so that a run that was cut off goes on from there.
"""
import copy
import re
import time
from functools import cached_property, partial
from itertools import chain, islice

import torch
from record_planted import staged
from sklearn.feature_extraction.text import TfidfVectorizer

from helpers import influence, retrain, search, terminal
from helpers.capture import backward_pass, find_layers
from helpers.curvature import EKFAC, Identity
from helpers.exact import conjugate_gradient_steps
from helpers.sources import fuse
from helpers.stories import batches, encode_query
from helpers.terminal.answers import Asked, exact_token_scores

SEGMENTS, STEPS, DRAWS, WIDTH = 3, 4, 32, 16
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
        """The training's own damping, one λ a layer."""
        flat = retrain.path_damping(self.states, self.ids, self.recipe, part)
        return retrain.layer_means(run.model, flat, run.layers)


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


def paper(training):
    """EK-FAC as in the paper: the MLPs, the end of training, λ = 0.1 × mean eigenvalue."""
    run, gradients = training.at(training.states[-1].theta), training.gradients()
    ekfac = terminal.fit(run, "ekfac")
    wider = EKFAC(ekfac.blocks, {name: 10 * value for name, value in ekfac.damping.items()})
    scores = scored(run, {"ekfac": ekfac.solve(gradients), "ekfac λ×10": wider.solve(gradients)})
    ihvps = ekfac.solve(gradients)
    _, lengths = influence.scores_and_lengths(run.model, run.layers, run.stream(), ihvps,
                                              [ekfac], len(run.corpus))
    return scores | {"relatif": scores["ekfac"] / lengths}


def other_curvatures(training):
    """K-FAC, the diagonal and none, for the MLPs; the cosine of gradients."""
    run, gradients = training.at(training.states[-1].theta), training.gradients()
    ihvps = {method: terminal.fit(run, method).solve(gradients) for method in ("kfac", "diagonal")}
    scores = scored(run, ihvps | {"dot": gradients})
    _, lengths = influence.scores_and_lengths(run.model, run.layers, run.stream(), gradients,
                                              [Identity(run.layers)], len(run.corpus))
    return scores | {"cosine": scores["dot"] / lengths}


def content(training):
    """EK-FAC of the margin: every training term divided by 1 − p (TRAK's output; notebook 04)."""
    run, gradients = training.at(training.states[-1].theta), training.gradients()
    ekfac = terminal.fit(run, "ekfac")
    run.target = "content"
    return scored(run, {"content": ekfac.solve(gradients)})


def wider_scope(training):
    """EK-FAC of all layers, then of the output head too; the dot product of these."""
    scores = {}
    for scope, name in (("all", "ekfac all"), ("head", "ekfac head")):
        run, gradients = training.at(training.states[-1].theta, scope), training.gradients(scope)
        ekfac = terminal.fit(run, "ekfac")
        ihvps = {name: ekfac.solve(gradients)}
        if scope == "head":
            own = EKFAC(ekfac.blocks, training.damping(run))
            ihvps |= {"dot head": gradients, "ekfac head, path": own.solve(gradients)}
        scores |= scored(run, ihvps)
    return scores


def at_mean(training):
    """EK-FAC of all layers and the head at the run's mean θ; the question's gradient as ever."""
    run, gradients = training.at(training.mean_theta(), "head"), training.gradients("head")
    return scored(run, {"ekfac mean": terminal.fit(run, "ekfac").solve(gradients)})


def source(training):
    """SOURCE with three segments, over all layers and the head; nothing is chosen."""
    count = len(training.states) - 1
    cuts = [round(part * count / SEGMENTS) for part in range(SEGMENTS + 1)]
    runs, curvatures = [], []
    for part in map(slice, cuts, cuts[1:]):
        run = training.at(training.mean_theta(part), "head")
        blocks = terminal.fit(run, "ekfac").blocks
        runs.append(run)
        curvatures.append(EKFAC(blocks, training.damping(run, part)))
    vectors = retrain.segments(curvatures, training.gradients("head"))
    return {"segments": sum(scored(run, {"": vector})[""] for run, vector in zip(runs, vectors))}


# -- steps on the Gauss–Newton Hessian -----------------------------------------------------------

def whole_gradients(training):
    """∇L_q by every parameter at the end of training, `(Q, P)`."""
    theta = training.states[-1].theta.detach().requires_grad_()
    answers = retrain.log_probs(training.model, training.questions, theta)
    return -torch.stack([torch.autograd.grad(answer, theta, retain_graph=True)[0]
                         for answer in answers])


def steps(training, count=STEPS, keep_terms=False):
    """EK-FAC-preconditioned conjugate gradients on the Gauss–Newton Hessian of *every* parameter.

    G over all stories, at the mean θ; damped by the training's own λ of every parameter.
    """
    theta = training.mean_theta()
    run = training.at(theta, "head")
    damping = retrain.path_damping(training.states, training.ids, training.recipe)
    ekfac = EKFAC(terminal.fit(run, "ekfac").blocks, training.damping(run))
    whole = retrain.WholeGaussNewton(training.model, training.ids, theta)
    places = retrain.layer_places(run.model, run.layers)

    def precondition(v):
        near = v / damping
        solved = ekfac.solve({name: v[:, place] for name, place in places.items()})
        for name, place in places.items():
            near[:, place] = solved[name]
        return near

    gradients, found, residuals = whole_gradients(training), {}, []
    course = chain([(precondition(gradients), torch.full((1,), torch.nan))],
                   conjugate_gradient_steps(lambda v: whole.product(v) + damping * v, gradients,
                                            precondition))
    for number, (x, residual) in enumerate(islice(course, count + 1)):
        terms = retrain.term_slopes(training.model, training.ids, theta, x) / len(training.ids)
        found[f"steps {number}"] = terms.sum(-1)
        residuals.append(residual.median())
    return found | {"terms": terms, "residuals": torch.stack(residuals)}


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

BOTH = {"words": words, "paper": paper, "curvatures": other_curvatures, "content": content,
        "scope": wider_scope, "mean": at_mean, "source": source, "projection": projection,
        "representation": representation, "steps": steps, "exact": exact}
FINE = {"covariance": covariance, "flat": flat_exact, "terms": ekfac_terms,
        "exact, seed 1": partial(exact, seed=1)}


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
