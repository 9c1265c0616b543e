"""The thin shared module of the series: stories → capture → curvature → influence → search → show, checks."""
