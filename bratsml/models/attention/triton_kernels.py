"""The fused kernels of window attention, in Triton.

A score is made from query, key, the bias table and the border of its window, used, and dropped; it
is made anew in the backward pass from the kept log-sum-exp. Scores, maxima and the log-sum-exp are
in base 2, in which the hardware computes exponentials. Every sum has a fixed order: no atomics, the
same bits each time.

Work is divided so that nothing is written twice:

- ``forward_kernel``         a block of queries of one window and head, over all keys;
- ``query_gradient_kernel``  the same, and the row sums that the next two need;
- ``key_gradient_kernel``    a block of keys of one window and head, over all queries;
- ``bias_gradient_kernel``   a block of queries x keys of one head, over a share of all windows: its
  biases are looked up once and stay in registers;
- ``table_gradient_kernel``  a block of table rows: the sum over all pairs at that offset.

``qkv`` is read as the projection wrote it, ``(B, N, 3, H, D)``, and its gradient written likewise:
no copies into other layouts. Blocks are padded: N to whole blocks, D to ``BLOCK_D`` of at least 16,
the least that tensor cores multiply; padded queries, keys and channels are read as zeros.

Source of the recomputation: Dao, "FlashAttention-2", 2023, algorithms 1 and 2.
"""

# Triton reads annotations as instructions to its compiler, so these functions carry no types.
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

# float32 numbers in Python's notation; Triton takes globals only as constexpr.
LOG2_E = tl.constexpr(1.4426950408889634)
APART_LOG2 = tl.constexpr(144.26950408889634)  # windows.APART in base 2


@triton.jit
def _block(start, rows, dims, row_stride, N: tl.constexpr, D: tl.constexpr):
    """Rows of queries, keys, values or gradients: ``(rows, BLOCK_D)``, padded with zeros."""
    inside = (rows < N)[:, None] & (dims < D)[None, :]
    return tl.load(start + rows[:, None] * row_stride + dims[None, :], mask=inside, other=0.0)


@triton.jit
def _score(
    left, right, left_place, right_place, left_side, right_side, table, scale,
    SHIFTED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Scores in base 2 of the rows of ``left`` against the rows of ``right``.

    Places are such that their sum is the row of the table: one side comes negated.
    """
    score = tl.dot(left, tl.trans(right), input_precision=PRECISION) * scale
    score += tl.load(table + left_place[:, None] + right_place[None, :])
    if SHIFTED:
        together = left_side[:, None] == right_side[None, :]
        score = tl.where(together, score, score - APART_LOG2)
    return score


@triton.jit
def _keep(seed, pair, queries, keys, dropout, N: tl.constexpr):
    """Which weights dropout keeps: a function of seed, window and head, query and key alone."""
    counter = (queries * N + keys).to(tl.uint32)
    zero = counter * 0
    bits, _, _, _ = tl.philox(seed, counter, zero + pair.to(tl.uint32), zero, zero)
    return tl.uint_to_uniform_float(bits) >= dropout


@triton.jit(do_not_specialize=["seed"])
def forward_kernel(
    qkv, table, place, side, border, out, logsumexp, seed, dropout, scale, num_windows, center,
    H, T, N: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr, SHIFTED: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Output and log-sum-exp of a block of queries."""
    blocks: tl.constexpr = (N + BLOCK_Q - 1) // BLOCK_Q
    pair = tl.program_id(0) // blocks
    window, head = (pair // H).to(tl.int64), pair % H
    queries = (tl.program_id(0) % blocks) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    dims = tl.arange(0, BLOCK_D)
    stride = 3 * H * D
    start = qkv + window * N * stride + head * D
    query = _block(start, queries, dims, stride, N, D)
    query_place = tl.load(place + queries, mask=queries < N, other=0) + center
    query_side = query_place
    seam = 0
    if SHIFTED:
        seam = tl.load(border + window % num_windows)
        query_side = tl.load(side + queries, mask=queries < N, other=0) & seam
    largest = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    summed = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    for first in range(0, N, BLOCK_K):
        keys = first + tl.arange(0, BLOCK_K)
        key = _block(start + H * D, keys, dims, stride, N, D)
        value = _block(start + 2 * H * D, keys, dims, stride, N, D)
        key_place = tl.load(place + keys, mask=keys < N, other=0)
        key_side = key_place
        if SHIFTED:
            key_side = tl.load(side + keys, mask=keys < N, other=0) & seam
        score = _score(
            query, key, query_place, -key_place, query_side, key_side, table + head * T, scale,
            SHIFTED, PRECISION,
        )  # fmt: skip
        score = tl.where((keys < N)[None, :], score, float("-inf"))
        larger = tl.maximum(largest, tl.max(score, 1))
        weight = tl.exp2(score - larger[:, None])
        shrink = tl.exp2(largest - larger)
        total = total * shrink + tl.sum(weight, 1)
        if DROPOUT:
            kept = _keep(seed, pair, queries[:, None], keys[None, :], dropout, N)
            weight = tl.where(kept, weight, 0.0)
        summed = summed * shrink[:, None]
        summed += tl.dot(weight.to(value.dtype), value, input_precision=PRECISION)
        largest = larger
    if DROPOUT:
        summed = summed / (1.0 - dropout)
    summed = summed / total[:, None]
    inside = (queries < N)[:, None] & (dims < D)[None, :]
    target = out + window * N * H * D + head * D + queries[:, None] * (H * D) + dims[None, :]
    tl.store(target, summed.to(out.dtype.element_ty), mask=inside)
    row = pair.to(tl.int64) * N + queries
    tl.store(logsumexp + row, largest + tl.log2(total), mask=queries < N)


@triton.jit(do_not_specialize=["seed"])
def query_gradient_kernel(
    qkv, table, place, side, border, out, logsumexp, grad_out, row_sum, grad_qkv, seed, dropout,
    scale, num_windows, center,
    H, T, N: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr, SHIFTED: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of a block of queries; ``row_sum`` of weight times its gradient, per query."""
    blocks: tl.constexpr = (N + BLOCK_Q - 1) // BLOCK_Q
    pair = tl.program_id(0) // blocks
    window, head = (pair // H).to(tl.int64), pair % H
    queries = (tl.program_id(0) % blocks) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    dims = tl.arange(0, BLOCK_D)
    stride = 3 * H * D
    start = qkv + window * N * stride + head * D
    out_start = window * N * H * D + head * D
    query = _block(start, queries, dims, stride, N, D)
    given = _block(grad_out + out_start, queries, dims, H * D, N, D)
    made = _block(out + out_start, queries, dims, H * D, N, D)
    row = pair.to(tl.int64) * N + queries
    level = tl.load(logsumexp + row, mask=queries < N, other=float("inf"))
    weighted = tl.sum(given.to(tl.float32) * made.to(tl.float32), 1)
    tl.store(row_sum + row, weighted, mask=queries < N)
    query_place = tl.load(place + queries, mask=queries < N, other=0) + center
    query_side = query_place
    seam = 0
    if SHIFTED:
        seam = tl.load(border + window % num_windows)
        query_side = tl.load(side + queries, mask=queries < N, other=0) & seam
    grad = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    for first in range(0, N, BLOCK_K):
        keys = first + tl.arange(0, BLOCK_K)
        key = _block(start + H * D, keys, dims, stride, N, D)
        value = _block(start + 2 * H * D, keys, dims, stride, N, D)
        key_place = tl.load(place + keys, mask=keys < N, other=0)
        key_side = key_place
        if SHIFTED:
            key_side = tl.load(side + keys, mask=keys < N, other=0) & seam
        score = _score(
            query, key, query_place, -key_place, query_side, key_side, table + head * T, scale,
            SHIFTED, PRECISION,
        )  # fmt: skip
        score = tl.where((keys < N)[None, :], score, float("-inf"))
        weight = tl.exp2(score - level[:, None])
        grad_weight = tl.dot(given, tl.trans(value), input_precision=PRECISION)
        if DROPOUT:
            kept = _keep(seed, pair, queries[:, None], keys[None, :], dropout, N)
            grad_weight = tl.where(kept, grad_weight / (1.0 - dropout), 0.0)
        grad_score = weight * (grad_weight - weighted[:, None])
        grad += tl.dot(grad_score.to(key.dtype), key, input_precision=PRECISION)
    grad = grad * (scale / LOG2_E)
    inside = (queries < N)[:, None] & (dims < D)[None, :]
    target = grad_qkv + window * N * stride + head * D + queries[:, None] * stride + dims[None, :]
    tl.store(target, grad.to(grad_qkv.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["seed"])
def key_gradient_kernel(
    qkv, table, place, side, border, logsumexp, grad_out, row_sum, grad_qkv, seed, dropout,
    scale, num_windows, center,
    H, T, N: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr, SHIFTED: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of keys and of their values; scores lie keys x queries."""
    blocks: tl.constexpr = (N + BLOCK_K - 1) // BLOCK_K
    pair = tl.program_id(0) // blocks
    window, head = (pair // H).to(tl.int64), pair % H
    keys = (tl.program_id(0) % blocks) * BLOCK_K + tl.arange(0, BLOCK_K)
    dims = tl.arange(0, BLOCK_D)
    stride = 3 * H * D
    start = qkv + window * N * stride + head * D
    out_start = window * N * H * D + head * D
    key = _block(start + H * D, keys, dims, stride, N, D)
    value = _block(start + 2 * H * D, keys, dims, stride, N, D)
    key_place = tl.load(place + keys, mask=keys < N, other=0)
    key_side = key_place
    seam = 0
    if SHIFTED:
        seam = tl.load(border + window % num_windows)
        key_side = tl.load(side + keys, mask=keys < N, other=0) & seam
    grad_key = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
    grad_value = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
    for first in range(0, N, BLOCK_Q):
        queries = first + tl.arange(0, BLOCK_Q)
        query = _block(start, queries, dims, stride, N, D)
        given = _block(grad_out + out_start, queries, dims, H * D, N, D)
        row = pair.to(tl.int64) * N + queries
        level = tl.load(logsumexp + row, mask=queries < N, other=float("inf"))
        weighted = tl.load(row_sum + row, mask=queries < N, other=0.0)
        query_place = tl.load(place + queries, mask=queries < N, other=0) + center
        query_side = query_place
        if SHIFTED:
            query_side = tl.load(side + queries, mask=queries < N, other=0) & seam
        score = _score(
            key, query, -key_place, query_place, key_side, query_side, table + head * T, scale,
            SHIFTED, PRECISION,
        )  # fmt: skip
        weight = tl.exp2(score - level[None, :])
        grad_weight = tl.dot(value, tl.trans(given), input_precision=PRECISION)
        used = weight
        if DROPOUT:
            kept = _keep(seed, pair, queries[None, :], keys[:, None], dropout, N)
            grad_weight = tl.where(kept, grad_weight / (1.0 - dropout), 0.0)
            used = tl.where(kept, weight / (1.0 - dropout), 0.0)
        grad_value += tl.dot(used.to(given.dtype), given, input_precision=PRECISION)
        grad_score = weight * (grad_weight - weighted[None, :])
        grad_key += tl.dot(grad_score.to(query.dtype), query, input_precision=PRECISION)
    grad_key = grad_key * (scale / LOG2_E)
    inside = (keys < N)[:, None] & (dims < D)[None, :]
    target = grad_qkv + window * N * stride + head * D + keys[:, None] * stride + dims[None, :]
    tl.store(target + H * D, grad_key.to(grad_qkv.dtype.element_ty), mask=inside)
    tl.store(target + 2 * H * D, grad_value.to(grad_qkv.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["seed"])
def bias_gradient_kernel(
    qkv, table, place, side, border, logsumexp, grad_out, row_sum, grad_bias, seed, dropout,
    scale, num_windows, center, all_windows, share,
    H, T, N: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr, SHIFTED: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of the scores summed over ``share`` windows, into ``(shares, H, N, N)`` float32."""
    key_blocks: tl.constexpr = (N + BLOCK_K - 1) // BLOCK_K
    tile, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    queries = (tile // key_blocks) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    keys = (tile % key_blocks) * BLOCK_K + tl.arange(0, BLOCK_K)
    dims = tl.arange(0, BLOCK_D)
    stride = 3 * H * D
    query_place = tl.load(place + queries, mask=queries < N, other=0) + center
    key_place = tl.load(place + keys, mask=keys < N, other=0)
    bias = tl.load(table + head * T + query_place[:, None] - key_place[None, :])
    query_sides, key_sides = query_place, key_place
    if SHIFTED:
        query_sides = tl.load(side + queries, mask=queries < N, other=0)
        key_sides = tl.load(side + keys, mask=keys < N, other=0)
    summed = tl.zeros((BLOCK_Q, BLOCK_K), tl.float32)
    for index in range(part * share, tl.minimum(part * share + share, all_windows)):
        window = tl.cast(index, tl.int64)
        start = qkv + window * N * stride + head * D
        query = _block(start, queries, dims, stride, N, D)
        key = _block(start + H * D, keys, dims, stride, N, D)
        value = _block(start + 2 * H * D, keys, dims, stride, N, D)
        given = _block(
            grad_out + window * N * H * D + head * D, queries, dims, H * D, N, D
        )  # fmt: skip
        row = (window * H + head) * N + queries
        level = tl.load(logsumexp + row, mask=queries < N, other=float("inf"))
        weighted = tl.load(row_sum + row, mask=queries < N, other=0.0)
        score = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale + bias
        if SHIFTED:
            seam = tl.load(border + window % num_windows)
            together = (query_sides & seam)[:, None] == (key_sides & seam)[None, :]
            score = tl.where(together, score, score - APART_LOG2)
        weight = tl.exp2(score - level[:, None])
        grad_weight = tl.dot(given, tl.trans(value), input_precision=PRECISION)
        if DROPOUT:
            kept = _keep(seed, window * H + head, queries[:, None], keys[None, :], dropout, N)
            grad_weight = tl.where(kept, grad_weight / (1.0 - dropout), 0.0)
        summed += weight * (grad_weight - weighted[:, None])
    inside = (queries < N)[:, None] & (keys < N)[None, :]
    target = grad_bias + (part * H + head) * N * N + queries[:, None] * N + keys[None, :]
    tl.store(target, summed, mask=inside)


@triton.jit
def table_gradient_kernel(
    grad_bias, place, token, grad_table, center, shares, H, T,
    N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """Rows of the table's gradient ``(T, H)``: each sums the pairs of tokens at its offset."""
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    head = tl.program_id(1)
    summed = tl.zeros((BLOCK_T,), tl.float32)
    for first in range(0, N, BLOCK_Q):
        queries = first + tl.arange(0, BLOCK_Q)
        query_place = tl.load(place + queries, mask=queries < N, other=0)
        key_place = query_place[None, :] + center - rows[:, None]
        possible = (queries < N)[None, :] & (key_place >= 0) & (key_place <= center)
        keys = tl.load(token + key_place, mask=possible, other=-1)
        for part in range(0, shares):
            start = grad_bias + (part * H + head) * N * N
            summed += tl.sum(
                tl.load(start + queries[None, :] * N + keys, mask=keys >= 0, other=0.0), 1
            )
    tl.store(grad_table + rows * H + head, summed, mask=rows < T)
