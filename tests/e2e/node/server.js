// A SCIM backend on Express 4 with its users and groups in memory: what a small product that
// bought its SCIM from a library runs. It trusts no forwarding header and builds its locations
// from `Host`, as most do.
//
//     node server.js [PORT [TOKEN]]
//
// Without a port the kernel picks one; the one in use is printed. With a token every request
// has to bring it.

"use strict";

const { randomUUID } = require("node:crypto");
const express = require("express");
const SCIMMY = require("scimmy");
const { default: SCIMMYRouters } = require("scimmy-routers");

const [port = "0", token] = process.argv.slice(2);

// Keeps the resources of one type; `name` is the attribute no two of them may share.
function declare(type, name) {
    const resources = new Map();

    const find = (id) => {
        if (!resources.has(id)) throw new SCIMMY.Types.Error(404, null, `Resource ${id} not found`);
        return resources.get(id);
    };

    const refuseTaken = (id, value) => {
        const taken = [...resources.values()].some((one) => one.id !== id && one[name] === value);
        if (taken) throw new SCIMMY.Types.Error(409, "uniqueness", `${name} ${value} is taken`);
    };

    SCIMMY.Resources.declare(type)
        .ingress((resource, data) => {
            const now = new Date().toISOString();
            const id = resource.id ?? randomUUID();
            const created = resource.id ? find(id).meta.created : now;
            const plain = JSON.parse(JSON.stringify(data));
            refuseTaken(id, plain[name]);
            resources.set(id, { ...plain, id, meta: { created, lastModified: now } });
            return find(id);
        })
        .egress((resource) => {
            if (resource.id) return find(resource.id);
            const all = [...resources.values()];
            return resource.filter ? resource.filter.match(all) : all;
        })
        .degress((resource) => {
            resources.delete(find(resource.id).id);
        });
}

declare(SCIMMY.Resources.User, "userName");
declare(SCIMMY.Resources.Group, "displayName");

const app = express();
app.use("/scim/v2", new SCIMMYRouters({
    type: "bearer",
    handler: (request) => {
        const wanted = `Bearer ${token}`;
        if (token && request.get("authorization") !== wanted) throw new Error("wrong token");
    },
    baseUri: (request) => `${request.protocol}://${request.get("host")}`,
}));

const server = app.listen(Number(port), "127.0.0.1", () => console.log(server.address().port));
