"""Matrix products of activations: one factor spikes, the others are averaged over time, which is exact (20).

The average over time of A^t mean(B) is mean(A) mean(B), and collapsed networks hold averages. Attention without softmax
is two such products, (Q K^T) V or Q (K^T V), with whatever scales, moves or masks between them.
"""

from pcsnn.graph import taxonomy
from pcsnn.graph.names import unused_name
from pcsnn.nn import TimeAverage


def is_product(node):
    """Whether a node is a matrix product of two values of the network."""
    return (
        node.op == "call_function"
        and node.target in taxonomy.MATRIX_PRODUCTS
        and len(node.args) == 2
        and len(node.args) == sum(hasattr(factor, "meta") for factor in node.args)
    )


def origin(node, changes):
    """Where the values come from that `node` moves, scales or masks; changes(node): whether it changes over time."""
    while node.op in ("call_function", "call_method") and not is_product(node):
        sources = [source for source in node.all_input_nodes if changes(source)]
        if len(sources) != 1:
            break
        node = sources[0]
    return node


def insert_averages(network):
    """Put a TimeAverage before the right factor of every product whose meta["averaged"] says so. Changes `network`."""
    for node in list(network.graph.nodes):
        if node.meta.get("averaged"):
            name = unused_name(network, f"{node.name}_average")
            network.add_submodule(name, TimeAverage())
            with network.graph.inserting_before(node):
                average = network.graph.call_module(name, (node.args[1],))
            node.args = (node.args[0], average)
    network.graph.lint()
    network.recompile()
