"""HeartLoop in a reasoning pipeline: many questions at once, solutions as they come, one budget for all."""

import asyncio

from heartloop import Budget, HeartLoop, Problem, Request
from heartloop.backends import ScriptedBackend


def slow_adder(request: Request) -> str:
    """A stand-in for a model: wrong at first, right once it was asked to look again."""
    question = str(request.messages[0].content)
    a, b = (int(word) for word in question.split("?")[0].split() if word.isdigit())
    looked_again = len(request.messages) > 1
    return f"Adding up. \\boxed{{{a + b if looked_again else a + b + 1}}}"


async def main() -> dict[str, str | None]:
    problems = (Problem(f"sum-{n}", f"What is {n} + {n + 1} ?", reference=str(2 * n + 1)) for n in range(20))
    answers: dict[str, str | None] = {}
    loop = HeartLoop(
        ScriptedBackend(slow_adder),
        strategy="heart",
        judge="oracle",
        max_rounds=3,
        budget=Budget(calls=100),
    )
    async with loop:
        async for solution in loop.stream(problems):
            answers[solution.problem_id] = solution.answer
            print(solution.problem_id, solution.answer, solution.stop_reason.value)
    return answers


if __name__ == "__main__":
    asyncio.run(main())
