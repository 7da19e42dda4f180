"""What each weight does in its network, and in which layer."""

from zeta.resolve.roles.finding import found_in, roles_of

__all__ = ["found_in", "roles_of"]
