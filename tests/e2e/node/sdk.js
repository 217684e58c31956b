// Speaks for one official SDK of a cloud, as tests/e2e/sdk.py does.
//
//     KEY_ID=... KEY_SECRET=... [NODE_EXTRA_CA_CERTS=file] node sdk.js SDK VARIANT http|https HOST:PORT

"use strict";

const readline = require("node:readline");

const [name, variant, scheme, address] = process.argv.slice(2);
const { KEY_ID, KEY_SECRET } = process.env;

function tencent() {
    const common = require("tencentcloud-sdk-nodejs-intl-en/tencentcloud/common");
    const { Client, Models } = require("tencentcloud-sdk-nodejs-intl-en/tencentcloud/organization").v20210331;
    const [signature, method] = variant.split(" ");
    const http = new common.HttpProfile(`${scheme}://`, address, method);
    const profile = new common.ClientProfile(signature, http);
    const client = new Client(new common.Credential(KEY_ID, KEY_SECRET), "", profile);
    return (action, parameters) => new Promise((resolve, reject) => {
        const request = new Models[`${action}Request`]();
        request.from_json_string(JSON.stringify(parameters));
        client[action](request, (error, answer) => {
            if (error) return reject({ code: error.code, status: 200, message: error.message });
            resolve(JSON.parse(answer.to_json_string()));
        });
    });
}

function openapi() {
    const { default: Client, Config, OpenApiRequest, Params } = require("@alicloud/openapi-client");
    const { RuntimeOptions } = require("@alicloud/tea-util");
    const settings = { accessKeyId: KEY_ID, accessKeySecret: KEY_SECRET, endpoint: address, protocol: scheme };
    const client = new Client(new Config(settings));
    return async (action, parameters) => {
        const call = new Params({
            action, version: "2021-05-15", protocol: scheme, method: "POST", authType: "AK", style: "RPC",
            pathname: "/", reqBodyType: "formData", bodyType: "json",
        });
        const place = variant === "form" ? "body" : "query";
        const request = new OpenApiRequest({ [place]: parameters });
        try {
            return (await client.callApi(call, request, new RuntimeOptions({}))).body;
        } catch (error) {
            throw { code: error.code, status: error.statusCode ?? error.data?.statusCode, message: error.message };
        }
    };
}

function pop() {
    const { RPCClient } = require("@alicloud/pop-core");
    const client = new RPCClient({
        accessKeyId: KEY_ID, accessKeySecret: KEY_SECRET, endpoint: `${scheme}://${address}`, apiVersion: "2021-05-15",
    });
    return async (action, parameters) => {
        try {
            return await client.request(action, parameters, { method: variant });
        } catch (error) {
            throw { code: error.code, status: error.entry?.response?.statusCode, message: error.message };
        }
    };
}

async function main() {
    const ask = { tencent, openapi, pop }[name]();
    for await (const line of readline.createInterface({ input: process.stdin })) {
        const { action, parameters } = JSON.parse(line);
        const told = await ask(action, parameters).then((answer) => ({ answer }), (refused) => {
            if (refused.code === undefined) throw refused;
            return refused;
        });
        console.log(JSON.stringify(told));
    }
}

main();
