// Type-aware lint: it catches an Output in a template string and a promise nobody waits for.

import eslint from "@eslint/js";
import tseslint from "typescript-eslint";

export default tseslint.config(
  // policy/index.ts stands on a package of its own, which only people who use the pack install.
  { ignores: ["node_modules/", "build/", ".pulumi-state/", "policy/index.ts", "policy/node_modules/"] },
  eslint.configs.recommended,
  {
    files: ["**/*.ts"],
    extends: [tseslint.configs.recommendedTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      "@typescript-eslint/no-unused-vars": ["error", { argsIgnorePattern: "^_", varsIgnorePattern: "^_" }],
      "@typescript-eslint/switch-exhaustiveness-check": [
        "error",
        { considerDefaultExhaustiveForUnions: true },
      ],
    },
  },
  {
    files: ["**/*.mjs", "**/*.js"],
    languageOptions: { globals: { console: "readonly", process: "readonly" } },
  },
);
