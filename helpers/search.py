"""What makes it cheap: choosing candidates before any gradient is taken."""
WORD = r"(?u)\b\w+\b"


def tfidf_scores(queries: list[str], texts: list[str]):
    """Cosine similarity of TF-IDF vectors, `(Q, N)`, a numpy array: the word-matching baseline.

    Sublinear term frequency, single words and pairs of words, no stop-word list.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=WORD)
    stories = vectorizer.fit_transform(texts)
    return (vectorizer.transform(queries) @ stories.T).toarray()


def bm25_scores(queries: list[str], texts: list[str], k1=1.5, b=0.75):
    """Okapi BM25 of single words, `(Q, N)`, a numpy array: word matching that forgives long texts (Robertson et al. 1994)."""
    import numpy as np
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(token_pattern=WORD)
    counts = vectorizer.fit_transform(texts).toarray().astype(float)
    lengths, holding = counts.sum(1, keepdims=True), (counts > 0).sum(0)
    rare = np.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
    weights = rare * counts * (k1 + 1) / (counts + k1 * (1 - b + b * lengths / lengths.mean()))
    return (vectorizer.transform(queries).toarray() > 0) @ weights.T


def candidates(queries: list[str], texts: list[str], count: int) -> list[int]:
    """Rows of the stories among the `count` best of at least one query, in corpus order."""
    best = (-tfidf_scores(queries, texts)).argsort(axis=1, kind="stable")[:, :count]
    return sorted(set(best.ravel().tolist()))
