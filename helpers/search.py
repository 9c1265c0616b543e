"""What makes it cheap: choosing candidates before any gradient is taken."""


def tfidf_scores(queries: list[str], texts: list[str]):
    """Cosine similarity of TF-IDF vectors, `(Q, N)`, a numpy array: the word-matching baseline.

    Sublinear term frequency, single words and pairs of words, no stop-word list.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    stories = vectorizer.fit_transform(texts)
    return (vectorizer.transform(queries) @ stories.T).toarray()


def candidates(queries: list[str], texts: list[str], count: int) -> list[int]:
    """Rows of the stories among the `count` best of at least one query, in corpus order."""
    best = (-tfidf_scores(queries, texts)).argsort(axis=1, kind="stable")[:, :count]
    return sorted(set(best.ravel().tolist()))
