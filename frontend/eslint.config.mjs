import { defineConfig, globalIgnores } from "eslint/config";
import coreWebVitals from "eslint-config-next/core-web-vitals";
import typescript from "eslint-config-next/typescript";

const config = defineConfig([
  ...coreWebVitals,
  ...typescript,
  {
    rules: {
      eqeqeq: "error",
      "no-console": "error",
      "prefer-const": "error",
      "@typescript-eslint/consistent-type-imports": "error",
      "@typescript-eslint/no-non-null-assertion": "error",
    },
  },
  {
    files: ["lib/**"],
    rules: { "no-restricted-imports": ["error", { patterns: ["react", "@/hooks/*", "@/components/*"] }] },
  },
  globalIgnores([".next/**", "out/**", "lib/api-types.ts", "next-env.d.ts"]),
]);

export default config;
