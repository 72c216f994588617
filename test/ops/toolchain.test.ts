// Which images a deploy must find or get.

import { expect, it } from "vitest";
import { baseImages, ownImages, publicImages } from "../../components/images.ts";
import { baseOf } from "../../images/build.ts";
import { imagesToGet } from "../../ops/toolchain.ts";

it("needs no base image where nothing has to be built: docker system prune removes those", () => {
  expect(imagesToGet([])).toEqual(Object.values(publicImages));
});

it("needs the base of what has to be built, and no other", () => {
  expect(imagesToGet(["keepalived"])).toEqual([baseOf("keepalived"), ...Object.values(publicImages)]);
  expect(imagesToGet(ownImages).sort()).toEqual(
    [...Object.values(baseImages), ...Object.values(publicImages)].sort(),
  );
});
