"""Azure OpenAI: the openai backend with Azure's addresses, versions and header.

Azure has two surfaces (learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle):

* *v1*, ``ENDPOINT/openai/v1/chat/completions``, with the deployment's name as the model and no version;
* the older one, ``ENDPOINT/openai/deployments/DEPLOYMENT/chat/completions?api-version=2024-10-21``.

Naming a version by date chooses the older; nothing else does.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote, urlsplit

from heartloop.backends.address import Address, usable_key
from heartloop.backends.openai import OpenAIBackend
from heartloop.errors import BackendError, ModelNotFound, UsageError

__all__ = ["AzureOpenAIBackend", "is_azure"]

ENDPOINT_ENV = "AZURE_OPENAI_ENDPOINT"
KEY_ENV = "AZURE_OPENAI_API_KEY"
TOKEN_ENV = "AZURE_OPENAI_AD_TOKEN"
VERSION_ENVS = ("OPENAI_API_VERSION", "AZURE_OPENAI_API_VERSION")

_HOSTS = tuple(
    f".{service}.{cloud}"
    for service in ("openai", "cognitiveservices", "services.ai")
    for cloud in ("azure.com", "azure.us", "azure.cn")
)
_NOT_DATED = frozenset(("v1", "latest", "preview"))


def is_azure(base_url: str) -> bool:
    """Whether the URL's host is one under which Azure serves OpenAI's models."""
    try:
        host = urlsplit(base_url).hostname or ""
    except ValueError:
        return False
    return host.endswith(_HOSTS)


class AzureOpenAIBackend(OpenAIBackend):
    """One deployment of a model in Azure.

    Reasoning models can't be told by a deployment's name; the first refusal of ``max_tokens`` teaches it.
    """

    def __init__(
        self,
        deployment: str,
        *,
        base_url: str | None = None,
        api_version: str | None = None,
        api_key_env: str = KEY_ENV,
        api_key: str | None = None,
        **options: Any,
    ) -> None:
        """
        Args:
            deployment: its name, which need not be the model's.
            base_url: the resource's endpoint, ``https://NAME.openai.azure.com``, or any URL below it, or a
                gateway's in front of it; None takes the variable AZURE_OPENAI_ENDPOINT.
            api_version: a date such as ``2024-10-21`` for the older surface; None takes the one in
                ``base_url``'s query, then the variable OPENAI_API_VERSION, else the v1 surface.
            api_key_env, api_key: the resource's key, sent as the header ``api-key``. Without one, the
                variable AZURE_OPENAI_AD_TOKEN (an access token of Entra ID) is sent as a bearer token.
            options: as for :class:`~heartloop.backends.openai.OpenAIBackend`.

        Raises:
            UsageError: no endpoint, no key, or an endpoint that is no URL.
        """
        if not deployment:
            raise UsageError("the deployment's name is empty: azure/DEPLOYMENT")
        endpoint = base_url or os.environ.get(ENDPOINT_ENV, "")
        if not endpoint:
            raise UsageError(
                "no endpoint of Azure OpenAI: give base_url (https://NAME.openai.azure.com), "
                f"or set the environment variable {ENDPOINT_ENV}"
            )
        key = usable_key(api_key if api_key is not None else os.environ.get(api_key_env, ""), api_key_env)
        token = "" if key else usable_key(os.environ.get(TOKEN_ENV, ""), TOKEN_ENV)
        if not (key or token):
            raise UsageError(
                f"no API key for Azure OpenAI: set the environment variable {api_key_env} (or {TOKEN_ENV})"
            )
        self._key_header = bool(key)
        address = Address.of(endpoint)
        version, in_query = api_version, address.query.get("api-version")
        super().__init__(deployment, base_url=endpoint, api_key=key or token, **options)
        self._set_address(_surface(address, deployment, version or in_query))

    def _call_options(self, openai: Any) -> dict[str, Any]:
        if not self._key_header:
            return {}
        # The client insists on a bearer token unless each call says that it does without.
        return {"headers": {"api-key": self._key, "Authorization": openai.Omit()}}

    async def _with_known_models(self, error: BackendError) -> BackendError:
        # Azure's list of models is of what could be deployed, not of what is.
        hint = "check the deployment's name, the endpoint and the api-version"
        return ModelNotFound(f"{error} ({hint})", status=error.status)


def _surface(address: Address, deployment: str, version: str | None) -> Address:
    """``address`` as the client's base URL: what comes before ``/chat/completions``."""
    path = urlsplit(address.shown).path
    if not version and not path.endswith("/openai/v1"):
        version = next((found for env in VERSION_ENVS if (found := os.environ.get(env, "").strip())), None)
    shown = address.shown.removesuffix("/chat/completions")
    if "/openai/deployments/" in path:
        if not version:
            raise UsageError(
                "base_url names a deployment, and that surface of Azure needs a version: add "
                f"?api-version=2024-10-21 to it, or set {VERSION_ENVS[0]}"
            )
    elif not shown.endswith("/openai/v1"):
        dated = bool(version) and version not in _NOT_DATED
        rest = f"deployments/{quote(deployment, safe='')}" if dated else "v1"
        shown = f"{shown.removesuffix('/openai')}/openai/{rest}"
    query = dict(address.query)
    if version:
        query["api-version"] = version
    # A version is no secret, and redacting it would hide what an error is about.
    secrets = tuple(s for s in address.secrets if s not in (version, f"api-version={version}"))
    return Address(shown, query, address.basic, secrets)
