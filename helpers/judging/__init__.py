"""Does an attribution tell what a model no longer says without some stories? It is trained without.

`command` reads the options, `job` does what they say, `training` trains, `ledger` keeps what is
done, `report` says how well each method did."""
METHODS = ("ekfac", "relatif", "kfac", "diagonal")
BASELINES = ("identity", "tfidf", "random")  # what an attribution must exceed
