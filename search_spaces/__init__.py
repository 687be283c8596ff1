"""Search spaces: decisions, candidates, surgery and exact costs."""
