"""The words of pictures and summaries: the code says them in English, and here is the Chinese of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

Lang = Literal["en", "zh"]
Say = Callable[..., str]
"""say(english, **values): the sentence in the chosen language, with the values in its places."""

CHINESE = {
    # layers and steps
    "layer {number}": "第 {number} 层",
    "layer {number} backward": "第 {number} 层反向",
    "{layer}: {told}": "{layer}：{told}",
    "time step": "时间步",
    "what the model read, step by step": "模型逐步读入的内容",
    "the last step": "最后一步",
    "all steps": "所有步",
    "step {step}": "第 {step} 步",
    # the error
    "‖∂E/∂{state}‖ in all": "全部误差 ‖∂E/∂{state}‖",
    "from the next step (horizontal)": "横向：来自后一步",
    "from above (vertical)": "纵向：来自上方",
    "the error of one step is below {share:.0%} after {steps} steps": "一步的误差走 {steps} 步后不到 {share:.0%}",
    "the error of one step is {times:g} times as large after {steps} steps": (
        "一步的误差走 {steps} 步后大到 {times:g} 倍"
    ),
    "{share:.0%} of the error of one step is left after {steps} steps": "一步的误差走 {steps} 步后还剩 {share:.0%}",
    "no error enters": "没有误差进入",
    "vanished": "梯度消失",
    "exploded": "梯度爆炸",
    "∂{state}: largest singular value": "∂{state}：最大奇异值",
    "∂{state}: a tenth are above": "∂{state}：十分之一在此之上",
    "∂{state}: half are above": "∂{state}：一半在此之上",
    "singular values of ∂h_τ/∂h_t": "∂h_τ/∂h_t 的奇异值",
    "what a change of the state at each step does to the state at {where}": "每一步状态的变化对{where}状态的影响",
    "what it had to predict next": "接下来要预测的内容",
    "the darker, the more what was read (column) decides the error of a prediction (row)": (
        "颜色越深，读到的内容（列）对预测误差（行）的影响越大"
    ),
    "|∂E/∂x · x|, nats": "|∂E/∂x · x|，奈特",
    # units, gates, weights
    "units": "单元",
    "units, by their mean": "单元，按均值排列",
    "a unit of {state} moves by {moved:.2f} from step to step on average": (
        "{state} 的每个单元每步平均变化 {moved:.2f}"
    ),
    "value of {state}": "{state} 的值",
    "below {bound}": "低于 {bound}",
    "above {bound}": "高于 {bound}",
    "at 0": "等于 0",
    "{gate} ({function}): {low:.0%} {below}, {high:.0%} {above}": (
        "{gate}（{function}）：{low:.0%} {below}，{high:.0%} {above}"
    ),
    "{gate} ({function}): {low:.0%} {below}": "{gate}（{function}）：{low:.0%} {below}",
    "share of steps {which}": "{which} 的步所占比例",
    "{matrix}: σ = {spread:.2f}": "{matrix}：σ = {spread:.2f}",
    "{count} columns": "{count} 列",
    "{count} rows": "{count} 行",
    "{matrix}, {outside} of {count} outside,\nlargest |λ| {radius:.2f}": (
        "{matrix} 的 {count} 个特征值，\n圆外 {outside} 个，最大 |λ| {radius:.2f}"
    ),
    "real part of λ": "λ 的实部",
    "imaginary part of λ": "λ 的虚部",
    "mean {bits:.2f} bits; the redder, the less the model expected it": "平均 {bits:.2f} 比特；越红，越出乎模型的意料",
    "surprise, bits": "意外程度，比特",
    "mean over {count}": "{count} 次的平均",
    # titles
    "{model}: how the error of the last prediction, {unit}, flows back": (
        "{model}：最后一次预测 {unit} 的误差怎样往回传递"
    ),
    "{model}: how the error of all predictions flows back": "{model}：所有预测的误差怎样往回传递",
    "{model}: how the error of the prediction {unit} at step {step} flows back": (
        "{model}：第 {step} 步预测 {unit} 的误差怎样往回传递"
    ),
    "{model}: the states over time": "{model}：隐藏状态随时间的变化",
    "{model}: gates over time, and how often they are stuck": "{model}：门随时间的变化，以及饱和的频率",
    "{model}: the matrices of the recurrent layers": "{model}：循环层的权重矩阵",
    "{model}: eigenvalues of the recurrent matrices, and the unit circle": "{model}：循环权重矩阵的特征值和单位圆",
    "{model}: which of the characters read decide each prediction": "{model}：读过的哪些字符决定每一次预测",
    "{model}: how surprised it was": "{model}：它对每个字符有多意外",
    # the summary of a flow
    "E = {loss:.6g} at {where}, {steps} steps, 1 sequence": "E = {loss:.6g}，取自{where}；{steps} 步，1 个序列",
    "E = {loss:.6g} at {where}, {steps} steps, {count} sequences": (
        "E = {loss:.6g}，取自{where}；{steps} 步，{count} 个序列"
    ),
    "{layer} ({cell}): {fate}": "{layer}（{cell}）：{fate}",
    "error vanishes (below {share:g}) after {steps} steps": "误差走 {steps} 步后消失（低于 {share:g}）",
    "error explodes (above {share:g}) after {steps} steps": "误差走 {steps} 步后爆炸（高于 {share:g}）",
    "error reaches through all steps": "误差能走完所有步",
    "  saturated: {gates}": "  饱和：{gates}",
    "  spectral radius: {radii}": "  谱半径：{radii}",
    "note: {note}": "注：{note}",
}


def speaker(lang: Lang) -> Say:
    """What says a sentence in a language. Raises ValueError for a language that is not there."""
    if lang not in get_args(Lang):
        raise ValueError(f'lang should be "en" or "zh", got {lang!r}')

    def say(english: str, /, **values: object) -> str:
        return (CHINESE[english] if lang == "zh" else english).format(**values)

    return say


def layer_name(say: Say, number: int, backward: bool = False) -> str:
    """The name of a layer, counted from 1."""
    return say("layer {number} backward", number=number) if backward else say("layer {number}", number=number)


__all__ = ["CHINESE", "Lang", "Say", "layer_name", "speaker"]
