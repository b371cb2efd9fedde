"""``heartloop serve``: an OpenAI-compatible server with the loop behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from heartloop.commands import options as opt
from heartloop.commands.output import log_to_stderr, note_unused, telemetry

__all__ = ["serve"]


def serve(
    context: typer.Context,
    model: opt.Model = "local/smollm2-135m",
    host: Annotated[str, typer.Option(help="Others than loopback need keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    name: Annotated[
        str | None, typer.Option(help="What clients call the model. Default: its own name.")
    ] = None,
    keys: Annotated[Path | None, typer.Option(help="TOML file with clients' keys and limits.")] = None,
    client_key_env: Annotated[
        list[str] | None, typer.Option(help="Variable that holds a key clients may use; may be repeated.")
    ] = None,
    strategy: opt.Strategy = "heart",
    judge: Annotated[
        str | None,
        typer.Option("--judge", "-j", help="Verifier-free. Default: cascade(majority,usc)."),
    ] = None,
    max_rounds: opt.MaxRounds = 3,
    width: opt.Width = 1,
    rotation: opt.Rotation = "alternating",
    stop: opt.Stop = None,
    base_url: opt.BaseUrl = None,
    api_key_env: opt.ApiKeyEnv = None,
    judge_model: opt.JudgeModel = None,
    synthesiser_model: opt.SynthesiserModel = None,
    temperature: opt.Temperature = 0.7,
    max_tokens: opt.MaxTokens = 1024,
    context_tokens: opt.ContextTokens = None,
    concurrency: opt.Concurrency = None,
    requests_per_minute: opt.Rpm = None,
    tokens_per_minute: opt.Tpm = None,
    hedge: opt.Hedge = None,
    timeout: opt.Timeout = 600.0,
    retries: opt.Retries = 5,
    price: opt.Price = None,
    prices: Annotated[Path | None, typer.Option(help="Prices of models, as a TOML file.")] = None,
    budget_tokens: opt.BudgetTokens = None,
    budget_calls: opt.BudgetCalls = None,
    budget_usd: opt.BudgetUsd = None,
    request_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of one request.")] = None,
    request_calls: Annotated[int, typer.Option(min=1, help="Most calls of one request.")] = 100,
    request_seconds: Annotated[float, typer.Option(min=0.1, help="Most seconds of one request.")] = 600.0,
    request_rounds: Annotated[int, typer.Option(min=1, help="Most rounds a client may ask for.")] = 10,
    request_width: Annotated[int, typer.Option(min=1, help="Most branches a client may ask for.")] = 8,
    request_max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most new tokens of one answer a client may ask for.")
    ] = None,
    requests: Annotated[
        int, typer.Option(min=1, help="Most requests at once; further ones get 429 and Retry-After.")
    ] = 256,
    body_bytes: Annotated[int, typer.Option(min=1_000, help="Largest body.")] = 8 << 20,
    keepalive: Annotated[
        float, typer.Option(min=0.05, help="Seconds between signs of life to a client that streams.")
    ] = 10.0,
    drain: Annotated[
        float, typer.Option(min=0.0, help="Seconds that requests under way get after SIGTERM.")
    ] = 60.0,
    patience: Annotated[
        float,
        typer.Option(min=0.1, help="Seconds a client gets to send its body, or to take what it is sent."),
    ] = 60.0,
    offer: Annotated[
        list[str] | None,
        typer.Option(help="Strategy, judge or grader of a plug-in that clients may name; may be repeated."),
    ] = None,
    seed: opt.Seed = 0,
    prompts: opt.Prompts = None,
    otel: opt.Otel = False,
    verbose: opt.Verbose = False,
) -> None:
    """Serve a model over OpenAI's API, with the loop behind every answer."""
    import asyncio

    from heartloop.commands.work import make_prompts
    from heartloop.engine.engine import Engine
    from heartloop.engine.retry import RetryPolicy
    from heartloop.runs.config import ModelConfig
    from heartloop.serve.app import Server, ServerSettings
    from heartloop.serve.keys import Keys, keys_from_env, load_keys
    from heartloop.serve.loops import DEFAULT_JUDGE, Limits, LoopSettings
    from heartloop.types import Budget

    log_to_stderr(verbose)
    note_unused(context, strategy)
    shared: dict[str, Any] = {
        "base_url": base_url,
        "api_key_env": api_key_env,
        "temperature": temperature,
        "max_tokens": max_tokens,
        "context_tokens": context_tokens,
        "concurrency": concurrency,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "hedge": bool(hedge),
        "attempt_timeout": timeout,
        "price": price,
        "prices": None if prices is None else str(prices),
    }
    models = {"generator": ModelConfig(model, **shared).model()}
    for role, other in (("judge", judge_model), ("synthesiser", synthesiser_model)):
        if other is not None:
            own = shared | {"price": price if other == model else None}
            models[role] = ModelConfig(other, **own).model()
    known = keys_from_env(client_key_env or ()) + (load_keys(keys) if keys is not None else [])
    settings = ServerSettings(
        model=name or model.rpartition("/")[2],
        loop=LoopSettings(strategy, judge or DEFAULT_JUDGE, max_rounds, width, rotation, stop),
        limits=Limits(
            rounds=max(request_rounds, max_rounds),
            width=max(request_width, width),
            tokens=request_tokens,
            calls=request_calls,
            seconds=request_seconds,
            max_tokens=request_max_tokens,
            offered=frozenset(offer or ()),
        ),
        host=host,
        port=port,
        requests=requests,
        body_bytes=body_bytes,
        keepalive=keepalive,
        drain=drain,
        patience=patience,
    )

    async def main() -> None:
        engine = Engine(
            models,
            budget=Budget(tokens=budget_tokens, calls=budget_calls, usd=budget_usd),
            # Whoever asks waits for the answer: an outage is to be told, not to be sat out.
            retry=RetryPolicy(attempts=retries + 1, outage_patience=0.0),
            seed=seed,
        )
        server = Server(
            engine,
            settings,
            Keys(known),
            prompts=None if prompts is None else make_prompts(prompts, None),
        )
        await server.serve(lambda url: print(f"serving {settings.model} at {url}", flush=True))

    with telemetry(otel):
        asyncio.run(main())
