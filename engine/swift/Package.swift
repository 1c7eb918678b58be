// swift-tools-version:5.7
// The library itself, libsmallhold_engine.a of `engine/build.sh aarch64-apple-ios`, is the app's to link.
import PackageDescription

let package = Package(
    name: "SmallholdEngine",
    products: [.library(name: "SmallholdEngine", targets: ["SmallholdEngine"])],
    targets: [
        .systemLibrary(name: "CSmallholdEngine"),
        .target(name: "SmallholdEngine", dependencies: ["CSmallholdEngine"]),
    ]
)
