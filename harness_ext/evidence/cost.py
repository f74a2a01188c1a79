"""What a thousand decisions cost, in whatever currency the prices are."""

DECISIONS = 1000


def of_machine(docs_per_s: float, per_hour: float) -> float:
    """Return the price of 1,000 decisions on a machine that is paid by the hour, and busy."""
    return DECISIONS / docs_per_s / 3600 * per_hour


def of_tokens(tokens_in: int, tokens_out: int, n: int, in_price: float, out_price: float) -> float:
    """Return the price of 1,000 decisions of a model that is paid by the token.

    Args:
        tokens_in: Read for all `n` documents.
        tokens_out: Written for them.
        n: Number of documents.
        in_price: Of a million tokens read.
        out_price: Of a million tokens written.
    """
    return DECISIONS / n * (tokens_in * in_price + tokens_out * out_price) / 1e6
