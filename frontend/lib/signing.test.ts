import { expect, it } from "vitest";

import { hmac, signedParameters, signedQuery } from "./signing";

// The public test vector of the API.
const secret = "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j";
const payload =
  "symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1&recvWindow=5000&timestamp=1499827319559";
const signature = "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71";

it("signs as everybody does", async () => {
  expect(await hmac(secret, payload)).toBe(signature);
  const parameters = {
    symbol: "LTCBTC",
    side: "BUY",
    type: "LIMIT",
    timeInForce: "GTC",
    quantity: "1",
    price: "0.1",
    recvWindow: "5000",
  };
  expect(await signedQuery(parameters, { key: "k", secret }, 1499827319559)).toBe(
    `${payload}&signature=${signature}`,
  );
});

it("sorts what a WebSocket method signs", async () => {
  const signed = await signedParameters({ recvWindow: "5000" }, { key: "k", secret }, 7);
  expect(signed).toEqual({
    apiKey: "k",
    recvWindow: "5000",
    timestamp: 7,
    signature: await hmac(secret, "apiKey=k&recvWindow=5000&timestamp=7"),
  });
});
