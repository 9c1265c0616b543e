"""Where this series is public: the one place. `python -m helpers.publish` changes it."""
ADDRESS, BRANCH = None, "main"
