// One recording plugin, named by the first argument: aws, docker or command. The engine starts one process for each
// provider of a stack.

import * as grpc from "@grpc/grpc-js";
import proto from "@pulumi/pulumi/proto/provider_pb.js";
import structs from "google-protobuf/google/protobuf/struct_pb.js";
import type { Props } from "../plugins/server.ts";
import { type Plugin, serve } from "../plugins/server.ts";
import { packageVersion } from "../plugins/version.ts";
import { Account, awsKinds, checkConfig as checkAws, invoke } from "./aws.ts";
import { commandKinds } from "./command.ts";
import { checkConfig as checkDocker, Connection, dockerKinds } from "./docker.ts";
import { folderVariable, World } from "./world.ts";

const [name, ...rest] = process.argv.slice(2);
const folder = process.env[folderVariable];
if (folder === undefined || folder === "") {
  throw new Error(`${folderVariable} must name the folder of the record; test/engine/aws.ts sets it`);
}
const world = new World(folder);

/** The common server knows resources only; AWS's plugin answers invokes too. */
function answerInvokes(answer: (token: string, args: Props) => Props): void {
  type Request = InstanceType<typeof proto.InvokeRequest>;
  const handler: grpc.handleUnaryCall<Request, unknown> = ({ request }, callback) => {
    try {
      const response = new proto.InvokeResponse();
      const answered = answer(request.getTok(), request.getArgs()?.toJavaScript() ?? {});
      response.setReturn(structs.Struct.fromJavaScript(JSON.parse(JSON.stringify(answered)) as never));
      callback(null, response);
    } catch (error) {
      callback({ code: grpc.status.UNKNOWN, details: (error as Error).message });
    }
  };
  const add = (server: grpc.Server, ...args: Parameters<grpc.Server["addService"]>): void =>
    addService.call(server, args[0], { ...args[1], invoke: handler as grpc.UntypedHandleCall });
  // eslint-disable-next-line @typescript-eslint/unbound-method
  const { addService } = grpc.Server.prototype;
  grpc.Server.prototype.addService = function (...args) {
    add(this, ...args);
  };
}

function plugin(): Plugin {
  const common = { version: packageVersion(`@pulumi/${name}`), cancel: () => undefined };
  switch (name) {
    case "aws": {
      const account = new Account();
      answerInvokes((token, args) => {
        const answered = invoke(account, token, args);
        world.note({ plugin: "aws", op: "invoke", type: token, name: "", urn: "", id: "", inputs: args });
        return answered;
      });
      return {
        ...common,
        kinds: awsKinds(world, account),
        checkConfig: checkAws,
        configure: (config) => account.configure(config),
      };
    }
    case "docker": {
      const connection = new Connection();
      return {
        ...common,
        kinds: dockerKinds(world, connection),
        checkConfig: checkDocker,
        configure: (config) => connection.configure(config),
      };
    }
    case "command":
      return {
        ...common,
        kinds: commandKinds(world),
        checkConfig: () => [],
        configure: () => Promise.resolve(),
      };
    default:
      throw new Error(`the plugin must be aws, docker or command, but is ${String(name)}`);
  }
}

await serve(plugin(), rest);
