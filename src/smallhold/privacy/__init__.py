"""Protect an update before it leaves a site: bound it, blur it, hide it in a sum, and account for what that costs.

Functions and state machines on numpy arrays. What each promises: `docs/concepts/privacy.md`; what it does not:
`docs/pitfalls/privacy.md`.
"""
