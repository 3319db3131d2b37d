"""How large the sums of int8 weights can become, which others than pcsnn hold in 32 bits."""

LIMIT = 2**30  # currents, levels and their differences stay within int32


def check_sums(name, layer):
    """ValueError, naming a layer of int8 weights, where its currents could come near the ends of int32."""
    most = layer.weight.long().abs().flatten(1).sum(1) * layer.input_steps
    if layer.operand_bias is not None:
        most = most + layer.operand_bias.long().abs()
    worth = getattr(layer, "operand_residual_scale", None)
    if worth is not None:
        most = most + worth.long().abs() * 255
    if most.max() > LIMIT // 2:  # a branch of currents that is added may be as large
        raise ValueError(f"snn: {name} has sums up to {int(most.max())}; expected at most 2^29 for integers of 32 bits")
