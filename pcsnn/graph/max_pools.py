"""Max pools in a traced network: which nodes they are, and what may stand before them as well as behind (12)."""

from pcsnn.graph.taxonomy import Role, role


def is_max_pool(node, modules):
    """Whether a node pools a maximum and returns nothing else."""
    return role(node, modules) is Role.MAX_POOL


def move_before(node, pool):
    """x - pool - node becomes x - node - pool, for a pool that `node` alone reads. Returns x."""
    current = pool.args[0]
    node.replace_all_uses_with(pool)
    pool.replace_input_with(current, node)
    node.replace_input_with(pool, current)
    current.append(node)
    return current
