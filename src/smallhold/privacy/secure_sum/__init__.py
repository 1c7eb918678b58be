"""Secure aggregation: a server learns the sum of the sites' vectors and nothing else; sites may drop out at any moment.

Source: Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS, figure 4 (the
variant against a server that does not follow the protocol); with few neighbours per site as in Bell et al. 2020,
"Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS (SecAgg+).
"""

from smallhold.privacy.secure_sum.config import SecureSumConfig
from smallhold.privacy.secure_sum.graph import GraphSize, fit_graph
from smallhold.privacy.secure_sum.server import SecureSumServer
from smallhold.privacy.secure_sum.site import SecureSumSite

__all__ = ["GraphSize", "SecureSumConfig", "SecureSumServer", "SecureSumSite", "fit_graph"]
