"""Speaks for one official SDK of a cloud: what is asked on standard input is asked by the SDK.

    KEY_ID=... KEY_SECRET=... [CA=file] sdk.py SDK VARIANT http|https HOST:PORT

A line of standard input is `{"action": ..., "parameters": {...}}`; the line that answers it is
`{"answer": {...}}` or `{"code": ..., "status": ..., "message": ...}`. `raw` sends parameters that
the SDK does not know, where it has a way to. Nothing is judged here.
"""

import asyncio
import json
import os
import sys
import warnings
from collections.abc import Callable

Asker = Callable[[str, dict, bool], dict]

KEY = os.environ["KEY_ID"], os.environ["KEY_SECRET"]
CA = os.environ.get("CA")


class Refused(Exception):
    """What the SDK has made of a refusal."""


def main() -> None:
    warnings.simplefilter("ignore")  # One warns of parameters that it does not know.
    name, variant, scheme, address = sys.argv[1:]
    ask = SDKS[name](variant, scheme, address)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = ask(question["action"], question["parameters"], question.get("raw", False))
            told = {"answer": answer}
        except Refused as refused:
            code, status, message = refused.args
            told = {"code": code, "status": status, "message": message}
        print(json.dumps(told), flush=True)


def tencent_profile(variant: str, scheme: str, address: str):
    from tencentcloud.common.profile.client_profile import ClientProfile
    from tencentcloud.common.profile.http_profile import HttpProfile

    signature, method = variant.split()
    http = HttpProfile(protocol=scheme, endpoint=address, reqMethod=method)
    return ClientProfile(signMethod=signature, httpProfile=http)


def tencent(variant: str, scheme: str, address: str) -> Asker:
    from tencentcloud.common.credential import Credential
    from tencentcloud.common.exception import TencentCloudSDKException
    from tencentcloud.organization.v20210331 import models
    from tencentcloud.organization.v20210331.organization_client import OrganizationClient

    profile = tencent_profile(variant, scheme, address)
    profile.httpProfile.certification = CA
    client = OrganizationClient(Credential(*KEY), "", profile)

    def ask(action: str, parameters: dict, raw: bool) -> dict:
        try:
            if raw:
                return client.call_json(action, parameters)["Response"]
            request = getattr(models, f"{action}Request")()
            request.from_json_string(json.dumps(parameters))
            return json.loads(getattr(client, action)(request).to_json_string())
        except TencentCloudSDKException as error:
            raise Refused(error.get_code(), 200, error.get_message()) from error

    return ask


def tencent_async(variant: str, scheme: str, address: str) -> Asker:
    from tencentcloud.common.credential import Credential
    from tencentcloud.common.exception import TencentCloudSDKException
    from tencentcloud.organization.v20210331 import models
    from tencentcloud.organization.v20210331.organization_client_async import OrganizationClient

    # Its certification setting is for a client's certificate.
    os.environ.update({"SSL_CERT_FILE": CA} if CA else {})
    runner = asyncio.Runner()
    client = OrganizationClient(Credential(*KEY), "", tencent_profile(variant, scheme, address))

    def ask(action: str, parameters: dict, raw: bool) -> dict:
        try:
            request = getattr(models, f"{action}Request")()
            request.from_json_string(json.dumps(parameters))
            return json.loads(runner.run(getattr(client, action)(request)).to_json_string())
        except TencentCloudSDKException as error:
            raise Refused(error.get_code(), 200, error.get_message()) from error

    return ask


def alibaba_client(variant: str, scheme: str, address: str):
    from alibabacloud_cloudsso20210515.client import Client
    from alibabacloud_tea_openapi.models import Config

    settings = Config(
        access_key_id=KEY[0],
        access_key_secret=KEY[1],
        endpoint=address,
        protocol=scheme,
        ca=CA,
        signature_algorithm=None if variant == "ACS3" else variant,
    )
    return Client(settings)


def alibaba_request(action: str, parameters: dict):
    from alibabacloud_cloudsso20210515 import models

    return getattr(models, f"{action}Request")().from_map(parameters)


def method(client: object, action: str, suffix: str = "") -> Callable:
    """The SDK has its own idea of where words begin."""
    wanted = (action + suffix).lower().replace("_", "")
    names = (name for name in dir(client) if name.replace("_", "") == wanted)
    return getattr(client, next(names))


def alibaba(variant: str, scheme: str, address: str) -> Asker:
    from alibabacloud_tea_openapi.exceptions import AlibabaCloudException

    client = alibaba_client(variant, scheme, address)

    def ask(action: str, parameters: dict, raw: bool) -> dict:
        try:
            answer = method(client, action)(alibaba_request(action, parameters))
            return answer.body.to_map()
        except AlibabaCloudException as error:
            raise Refused(error.code, error.status_code, error.message) from error

    return ask


def alibaba_async(variant: str, scheme: str, address: str) -> Asker:
    from alibabacloud_tea_openapi.exceptions import AlibabaCloudException

    client = alibaba_client(variant, scheme, address)
    runner = asyncio.Runner()

    def ask(action: str, parameters: dict, raw: bool) -> dict:
        try:
            request = alibaba_request(action, parameters)
            answer = runner.run(method(client, action, "async")(request))
            return answer.body.to_map()
        except AlibabaCloudException as error:
            raise Refused(error.code, error.status_code, error.message) from error

    return ask


def alibaba_core(variant: str, scheme: str, address: str) -> Asker:
    """The older core, which knows no product: RPC v1, with its parameters in the query or a form."""
    from aliyunsdkcore.acs_exception.exceptions import ServerException
    from aliyunsdkcore.client import AcsClient
    from aliyunsdkcore.http import protocol_type
    from aliyunsdkcore.request import RpcRequest

    client = AcsClient(*KEY, "cn-shanghai", auto_retry=False, verify=CA)

    def ask(action: str, parameters: dict, raw: bool) -> dict:
        # It knows a protocol by its identity.
        protocol = protocol_type.HTTPS if scheme == "https" else protocol_type.HTTP
        request = RpcRequest("cloudsso", "2021-05-15", action, protocol=protocol)
        request.set_endpoint(address)
        request.set_method(variant.split()[0])
        add = request.add_body_params if variant.endswith("form") else request.add_query_param
        for name, value in parameters.items():
            add(name, value)
        try:
            return json.loads(client.do_action_with_exception(request))
        except ServerException as error:
            code, message = error.get_error_code(), error.get_error_msg()
            raise Refused(code, error.get_http_status(), message) from error

    return ask


SDKS = {
    "tencent": tencent,
    "tencent-async": tencent_async,
    "alibaba": alibaba,
    "alibaba-async": alibaba_async,
    "alibaba-core": alibaba_core,
}

if __name__ == "__main__":
    main()
