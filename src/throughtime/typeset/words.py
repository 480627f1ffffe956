"""The words around formulas, in English and Chinese."""

from __future__ import annotations

from typing import Literal

Lang = Literal["en", "zh"]

WORDS: dict[str, dict[Lang, str]] = {
    "forward": {"en": "Forward: one time step", "zh": "前向计算：一个时间步"},
    "errors": {"en": "Error terms of step t", "zh": "第 t 步的误差项"},
    "in_time": {
        "en": "Error through time (horizontal): to step t-1",
        "zh": "误差沿时间传播（水平方向）：传到第 t-1 步",
    },
    "in_depth": {
        "en": "Error through depth (vertical): to the layer below; in the lowest layer ∂E/∂x_t",
        "zh": "误差沿层传播（垂直方向）：传到下面一层；在最底层即 ∂E/∂x_t",
    },
    "gradients": {"en": "Gradients of the weights: sums over all steps", "zh": "权重梯度：对所有时间步求和"},
    "kept": {"en": "Kept from the forward pass for the backward pass", "zh": "前向计算为反向计算保存的值"},
    "legend": {
        "en": "⊙ and ² act element by element",
        "zh": "⊙ 和 ² 均逐元素运算",
    },
    "legend_backward": {
        "en": "E: the loss; δ_t = ∂E/∂net_t: the error term of a pre-activation; e↓_t: the error that comes down at "
        "step t from the layer above or from the loss; e←_t: the error that comes back from step t+1 (0 at the last "
        "step); at step 0 it is the gradient of the initial state",
        "zh": "E：损失；δ_t = ∂E/∂net_t：加权输入的误差项；e↓_t：第 t 步从上一层或损失传下来的误差；"
        "e←_t：从第 t+1 步传回来的误差（最后一步为 0），在第 0 步即初始状态的梯度",
    },
}
