"""Max pools in a traced network: which nodes they are, and what may stand before them as well as behind (12)."""

from pcsnn.graph import taxonomy


def is_max_pool(node, modules):
    """Whether a node pools a maximum and returns nothing else."""
    if node.op == "call_module":
        module = modules[node.target]
        return isinstance(module, taxonomy.MAX_POOL_MODULES) and not module.return_indices
    return (
        node.op == "call_function"
        and node.target in taxonomy.MAX_POOL_FUNCTIONS
        and not node.kwargs.get("return_indices")
    )


def move_before(node, pool):
    """x - pool - node becomes x - node - pool, for a pool that `node` alone reads. Returns x."""
    current = pool.args[0]
    node.replace_all_uses_with(pool)
    pool.replace_input_with(current, node)
    node.replace_input_with(pool, current)
    current.append(node)
    return current
